-- Topics: queues bound to patterns, and messages that a routing key leads to them.

-- Refuses topics where PGMQ has none. Where PGMQ itself is gone, it may come back.
CREATE FUNCTION pgmq_gateway.need_topics()
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF to_regclass('pgmq.topic_bindings') IS NULL THEN
        IF to_regclass('pgmq.meta') IS NULL THEN
            RAISE undefined_table USING MESSAGE = 'relation pgmq.meta is gone';
        END IF;
        RAISE EXCEPTION 'topics need PGMQ 1.11.0 or later' USING ERRCODE = 'PGW01';
    END IF;
END
$$;

-- Stores the messages of an operation in every queue with a binding that its routing key matches, once in
-- each. `allowed_queues` is a regular expression for the names of queues that the caller may send to; null
-- is all of them. Raises PGW14 where that would be more than `max_deliveries` messages or `max_bytes`.
CREATE FUNCTION pgmq_gateway.publish(publication jsonb, operation integer, at_once boolean)
RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    messages jsonb := publication -> 'messages';
    targets text[] := ARRAY(SELECT r.queue FROM pgmq_gateway.route_within(
        publication ->> 'routing_key', publication ->> 'allowed_queues') r);
    deliveries jsonb := '[]';
    target text;
BEGIN
    PERFORM pgmq_gateway.require_small(publication, operation, cardinality(targets));
    FOREACH target IN ARRAY targets LOOP
        deliveries := deliveries || (
            SELECT jsonb_agg(jsonb_build_object('queue', pgmq_gateway.as_text(target), 'msg_id', s.id)
                             || CASE WHEN s.is_duplicate THEN '{"duplicate": true}' ELSE '{}' END::jsonb
                             ORDER BY s.place)
            FROM pgmq_gateway.store(target, messages, operation, at_once) d,
                 unnest(d.ids, d.are_duplicates) WITH ORDINALITY AS s (id, is_duplicate, place));
    END LOOP;
    RETURN deliveries;
END
$$;

-- Refuses a publication to so many queues that is too large for one transaction.
CREATE FUNCTION pgmq_gateway.require_small(publication jsonb, operation integer, queues bigint)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    stored bigint;
    bytes bigint;
BEGIN
    SELECT queues * count(*), queues * sum((e ->> 'bytes')::bigint) INTO stored, bytes
    FROM jsonb_array_elements(publication -> 'messages') e;
    IF stored > (publication ->> 'max_deliveries')::bigint THEN
        RAISE EXCEPTION 'deliveries' USING ERRCODE = 'PGW14', DETAIL = jsonb_build_object(
            'operation', operation, 'deliveries', stored,
            'limit', publication -> 'max_deliveries');
    ELSIF bytes > (publication ->> 'max_bytes')::bigint THEN
        RAISE EXCEPTION 'bytes' USING ERRCODE = 'PGW14', DETAIL = jsonb_build_object(
            'operation', operation, 'bytes', bytes, 'limit', publication -> 'max_bytes');
    END IF;
END
$$;

-- Where a message with a routing key would go: to queues that are there and whose names a regular expression
-- matches; null is all of them. PGMQ compiles the expression of every binding there is, which takes far longer than
-- to compare: here only that of a binding is compiled whose pattern has no letters that the key lacks, and matches
-- where a wildcard or a dot may stand for anything. The bindings of others cost what it takes to read them.
CREATE FUNCTION pgmq_gateway.route_within(routing_key text, allowed_queues text)
RETURNS TABLE (queue text) LANGUAGE plpgsql AS $$
DECLARE
    letters text := replace(routing_key, '.', '');
BEGIN
    PERFORM pgmq_gateway.need_topics();
    BEGIN
        IF NOT pgmq.validate_routing_key(routing_key) THEN
            RAISE EXCEPTION 'it is not valid';
        END IF;
    EXCEPTION WHEN raise_exception THEN
        RAISE EXCEPTION '%', SQLERRM USING ERRCODE = 'PGW41';
    END;
    IF length(letters) > 32 THEN
        letters := (SELECT string_agg(DISTINCT c, '') FROM regexp_split_to_table(letters, '') c);
    END IF;
    letters := '.*#' || letters;
    RETURN QUERY SELECT DISTINCT b.queue_name::text FROM pgmq.topic_bindings b
                 WHERE CASE
                     WHEN ltrim(b.pattern, letters) <> '' THEN false
                     WHEN routing_key NOT LIKE translate(b.pattern, '.*#\', '%%%%') THEN false
                     WHEN b.queue_name !~ allowed_queues THEN false
                     -- No table has such a name.
                     WHEN b.queue_name ~ '[$;'']|--' THEN false
                     WHEN pgmq_gateway.find_queue_table(b.queue_name) IS NULL THEN false
                     ELSE routing_key ~ b.compiled_regex END
                 ORDER BY 1;
END
$$;

-- The same, of queues that can be asked for.
CREATE FUNCTION pgmq_gateway.shown_route(routing_key text, allowed_queues text)
RETURNS TABLE (queue text) LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms' AS $$
BEGIN
    RETURN QUERY SELECT r.queue FROM pgmq_gateway.route_within(routing_key, allowed_queues) r
                 WHERE pgmq_gateway.is_name(r.queue);
END
$$;

-- The bindings of all queues whose names the regular expression `allowed_queues` matches, or of one. Null is all of
-- them. Of more than `max_bindings`, any so many, so that none that is left out has to be sorted.
CREATE FUNCTION pgmq_gateway.bindings(
    only_queue text, allowed_queues text, max_bindings integer
) RETURNS TABLE (pattern text, queue text, bound_at timestamptz) LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms' AS $$
BEGIN
    PERFORM pgmq_gateway.need_topics();
    RETURN QUERY
        SELECT chosen.pattern, chosen.queue_name, chosen.bound_at
        FROM (
            SELECT b.pattern, b.queue_name, coalesce(b.bound_at, '-infinity') AS bound_at
            FROM pgmq.topic_bindings b
            WHERE (only_queue IS NULL OR b.queue_name = only_queue)
              AND (allowed_queues IS NULL OR b.queue_name ~ allowed_queues)
              AND pgmq_gateway.is_name(b.queue_name) AND pgmq_gateway.is_text(b.pattern)
            LIMIT max_bindings
        ) chosen
        ORDER BY chosen.pattern COLLATE "C", chosen.queue_name COLLATE "C";
END
$$;

-- Binds a queue to a pattern: `bound` or `exists`, and since when, `no_queue` or, where it has `max_bindings`,
-- `full`; of several that ask at once, one binds. Raises PGW42 for a pattern that PGMQ refuses.
CREATE FUNCTION pgmq_gateway.bind(
    queue text, topic_pattern text, max_bindings integer, OUT outcome text, OUT since timestamptz
) LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '100ms' AS $$
BEGIN
    PERFORM pgmq_gateway.need_topics();
    PERFORM pgmq_gateway.lock_queue(queue);
    IF NOT EXISTS (SELECT FROM pgmq.meta m WHERE m.queue_name = queue)
       OR pgmq_gateway.find_queue_table(queue) IS NULL THEN
        PERFORM pgmq_gateway.require_shown(queue);
        PERFORM pgmq_gateway.require_table(queue);
        outcome := 'no_queue';
        RETURN;
    END IF;
    BEGIN
        IF NOT pgmq.validate_topic_pattern(topic_pattern) THEN
            RAISE EXCEPTION 'it is not valid';
        END IF;
    EXCEPTION WHEN raise_exception THEN
        RAISE EXCEPTION '%', SQLERRM USING ERRCODE = 'PGW42';
    END;
    SELECT 'exists', coalesce(b.bound_at, '-infinity') INTO outcome, since FROM pgmq.topic_bindings b
    WHERE b.pattern = topic_pattern AND b.queue_name = queue;
    IF outcome IS NOT NULL THEN
        RETURN;
    ELSIF (SELECT count(*) FROM pgmq.topic_bindings b WHERE b.queue_name = queue) >= max_bindings THEN
        outcome := 'full';
        RETURN;
    END IF;
    PERFORM pgmq.bind_topic(topic_pattern, queue);
    SELECT 'bound', coalesce(b.bound_at, '-infinity') INTO outcome, since FROM pgmq.topic_bindings b
    WHERE b.pattern = topic_pattern AND b.queue_name = queue;
    IF outcome IS NULL THEN
        RAISE EXCEPTION 'pgmq.topic_bindings' USING ERRCODE = 'PGW35';
    END IF;
EXCEPTION WHEN foreign_key_violation THEN
    outcome := 'no_queue';
    since := NULL;
END
$$;

-- Ends a binding: `unbound`, `no_queue` or `no_binding`.
CREATE FUNCTION pgmq_gateway.unbind(queue text, topic_pattern text)
RETURNS text LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp SET lock_timeout = '100ms' AS $$
BEGIN
    PERFORM pgmq_gateway.need_topics();
    DELETE FROM pgmq.topic_bindings b WHERE b.pattern = topic_pattern AND b.queue_name = queue;
    IF FOUND THEN
        RETURN 'unbound';
    ELSIF EXISTS (SELECT FROM pgmq.topic_bindings b
                  WHERE b.pattern = topic_pattern AND b.queue_name = queue) THEN
        RAISE EXCEPTION 'pgmq.topic_bindings' USING ERRCODE = 'PGW35';
    ELSIF EXISTS (SELECT FROM pgmq.meta m WHERE m.queue_name = queue) THEN
        RETURN 'no_binding';
    END IF;
    PERFORM pgmq_gateway.require_shown(queue);
    RETURN 'no_queue';
END
$$;
