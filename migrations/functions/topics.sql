-- Topics: queues bound to patterns, and messages that a routing key leads to them.

-- Refuses topics where PGMQ has none.
CREATE FUNCTION pgmq_gateway.need_topics()
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF to_regclass('pgmq.topic_bindings') IS NULL THEN
        RAISE EXCEPTION 'topics need PGMQ 1.11.0 or later' USING ERRCODE = 'PGW01';
    END IF;
END
$$;

-- Stores messages in every queue with a binding that the routing key matches, once in each.
-- `allowed_queues` is a regular expression for the names of queues that the caller may send to; null is
-- all of them.
CREATE FUNCTION pgmq_gateway.publish(
    routing_key text, messages jsonb, operation integer, allowed_queues text
) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    deliveries jsonb := '[]';
    target text;
BEGIN
    FOR target IN SELECT r.queue FROM pgmq_gateway.route(routing_key) r
                  WHERE (allowed_queues IS NULL OR r.queue ~ allowed_queues)
                    -- No table has such a name.
                    AND r.queue !~ '[$;'']|--' LOOP
        deliveries := deliveries || (
            SELECT jsonb_agg(jsonb_build_object('queue', pgmq_gateway.as_text(target), 'msg_id', s.id)
                             ORDER BY s.place)
            FROM unnest(pgmq_gateway.store(target, messages, operation)) WITH ORDINALITY
                 AS s (id, place));
    END LOOP;
    RETURN deliveries;
END
$$;

-- Where a message with a routing key would go: to queues that are there.
CREATE FUNCTION pgmq_gateway.route(routing_key text)
RETURNS TABLE (queue text) LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms' AS $$
BEGIN
    PERFORM pgmq_gateway.need_topics();
    BEGIN
        IF NOT pgmq.validate_routing_key(routing_key) THEN
            RAISE EXCEPTION 'it is not valid';
        END IF;
    EXCEPTION WHEN raise_exception THEN
        RAISE EXCEPTION '%', SQLERRM USING ERRCODE = 'PGW41';
    END;
    RETURN QUERY SELECT DISTINCT r.queue_name::text FROM pgmq.test_routing(routing_key) r
                 WHERE CASE WHEN r.queue_name ~ '[$;'']|--' THEN false
                            ELSE pgmq_gateway.find_queue_table(r.queue_name) IS NOT NULL END ORDER BY 1;
END
$$;

-- The same, of queues that can be asked for.
CREATE FUNCTION pgmq_gateway.shown_route(routing_key text)
RETURNS TABLE (queue text) LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN QUERY SELECT r.queue FROM pgmq_gateway.route(routing_key) r WHERE pgmq_gateway.is_name(r.queue);
END
$$;

-- The bindings of all queues, or of one.
CREATE FUNCTION pgmq_gateway.bindings(only_queue text)
RETURNS TABLE (pattern text, queue text, bound_at timestamptz) LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms' AS $$
BEGIN
    PERFORM pgmq_gateway.need_topics();
    RETURN QUERY SELECT b.pattern, b.queue_name, b.bound_at FROM pgmq.topic_bindings b
                 WHERE (only_queue IS NULL OR b.queue_name = only_queue)
                   AND pgmq_gateway.is_name(b.queue_name) AND pgmq_gateway.is_text(b.pattern)
                 ORDER BY b.pattern COLLATE "C", b.queue_name COLLATE "C";
END
$$;

-- Binds a queue to a pattern: `bound`, `exists` or `no_queue`; of several that ask at once, one binds.
-- Raises PGW42 for a pattern that PGMQ refuses.
CREATE FUNCTION pgmq_gateway.bind(queue text, topic_pattern text)
RETURNS text LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp SET lock_timeout = '100ms' AS $$
BEGIN
    PERFORM pgmq_gateway.need_topics();
    PERFORM pgmq_gateway.lock_queue(queue);
    IF NOT EXISTS (SELECT FROM pgmq.meta m WHERE m.queue_name = queue)
       OR pgmq_gateway.find_queue_table(queue) IS NULL THEN
        RETURN 'no_queue';
    END IF;
    BEGIN
        IF NOT pgmq.validate_topic_pattern(topic_pattern) THEN
            RAISE EXCEPTION 'it is not valid';
        END IF;
    EXCEPTION WHEN raise_exception THEN
        RAISE EXCEPTION '%', SQLERRM USING ERRCODE = 'PGW42';
    END;
    IF EXISTS (SELECT FROM pgmq.topic_bindings b
               WHERE b.pattern = topic_pattern AND b.queue_name = queue) THEN
        RETURN 'exists';
    END IF;
    PERFORM pgmq.bind_topic(topic_pattern, queue);
    IF NOT EXISTS (SELECT FROM pgmq.topic_bindings b
                   WHERE b.pattern = topic_pattern AND b.queue_name = queue) THEN
        RAISE EXCEPTION 'INSERT on pgmq.topic_bindings' USING ERRCODE = 'PGW33';
    END IF;
    RETURN 'bound';
EXCEPTION WHEN foreign_key_violation THEN
    RETURN 'no_queue';
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
        RAISE EXCEPTION 'DELETE on pgmq.topic_bindings' USING ERRCODE = 'PGW33';
    ELSIF EXISTS (SELECT FROM pgmq.meta m WHERE m.queue_name = queue) THEN
        RETURN 'no_binding';
    END IF;
    RETURN 'no_queue';
END
$$;
