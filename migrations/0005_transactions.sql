-- Several operations in one transaction, and operations that are done once however often they are
-- asked for. Errors of class PGW are for the gateway: 01 a missing feature, 04 a missing message, 09
-- a stale receipt, 13 a message that is too large, 40 a missing queue, 41 a bad routing key. The
-- detail of the latter five begins with the index of the operation.

-- What was answered to requests with an Idempotency-Key. `relation` is the table of the queue, so
-- that what was stored in a queue that is gone is not taken for stored in its successor.
CREATE TABLE pgmq_gateway.idempotency_keys (
    scope text,
    key text,
    fingerprint bytea NOT NULL,
    relation oid NOT NULL,
    answer jsonb,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (scope, key)
);
CREATE INDEX idempotency_keys_created_at ON pgmq_gateway.idempotency_keys (created_at);

-- Claims a key for this transaction; waits for one that claimed it before to end. `answer` is set
-- where that one was answered, `conflict` where it was about something else.
CREATE FUNCTION pgmq_gateway.claim(
    key_scope text, key_text text, request_fingerprint bytea, queue_relation oid,
    lifetime_seconds integer, OUT answer jsonb, OUT conflict boolean
) LANGUAGE plpgsql AS $$
BEGIN
    conflict := false;
    INSERT INTO pgmq_gateway.idempotency_keys AS k (scope, key, fingerprint, relation)
    VALUES (key_scope, key_text, request_fingerprint, queue_relation)
    ON CONFLICT ON CONSTRAINT idempotency_keys_pkey DO UPDATE
    SET fingerprint = excluded.fingerprint, relation = excluded.relation, answer = NULL,
        created_at = excluded.created_at
    WHERE k.created_at < now() - make_interval(secs => lifetime_seconds)
       OR k.relation <> excluded.relation;
    IF NOT FOUND THEN
        SELECT k.answer, k.fingerprint <> request_fingerprint INTO answer, conflict
        FROM pgmq_gateway.idempotency_keys k WHERE k.scope = key_scope AND k.key = key_text;
    END IF;
END
$$;

-- Stores messages, given as objects with `message`, `headers`, `delay` or `visible_at`, and `bytes`,
-- with the queue's settings applied.
CREATE FUNCTION pgmq_gateway.store(queue text, messages jsonb, operation integer)
RETURNS bigint[] LANGUAGE plpgsql AS $$
DECLARE
    q_table regclass := to_regclass(format('pgmq.%I', pgmq.format_table_name(queue, 'q')));
    has_headers boolean;
    settings jsonb;
    too_large text;
    ids bigint[];
BEGIN
    IF q_table IS NULL OR NOT EXISTS (SELECT FROM pgmq.meta m WHERE m.queue_name = queue) THEN
        RAISE EXCEPTION '%', queue USING ERRCODE = 'PGW40', DETAIL = operation;
    END IF;
    has_headers := pgmq_gateway.has_column(q_table, 'headers');
    SELECT s.settings INTO settings FROM pgmq_gateway.queue_settings s
    JOIN pgmq.meta m ON m.queue_name = s.queue_name AND m.created_at = s.queue_created_at
    WHERE s.queue_name = queue;
    SELECT format('%s %s %s', operation, e ->> 'bytes', settings ->> 'max_message_bytes')
    INTO too_large
    FROM jsonb_array_elements(messages) e
    WHERE (e ->> 'bytes')::bigint > (settings ->> 'max_message_bytes')::bigint LIMIT 1;
    IF too_large IS NOT NULL THEN
        RAISE EXCEPTION '%', queue USING ERRCODE = 'PGW13', DETAIL = too_large;
    END IF;
    IF NOT has_headers
       AND EXISTS (SELECT FROM jsonb_array_elements(messages) e
                   WHERE jsonb_typeof(e -> 'headers') = 'object') THEN
        PERFORM pgmq_gateway.need_headers();
    END IF;
    IF pgmq_gateway.has_fifo_index(queue) THEN
        PERFORM pgmq_gateway.send_in_turn(queue);
    END IF;
    EXECUTE format(
        $query$
        WITH stored AS (
            INSERT INTO %s (vt, message %s)
            SELECT coalesce((e ->> 'visible_at')::timestamptz, clock_timestamp() + make_interval(
                       secs => coalesce((e ->> 'delay')::integer, $2, 0))),
                   e -> 'message' %s
            FROM jsonb_array_elements($1) WITH ORDINALITY AS new (e, place) ORDER BY new.place
            RETURNING msg_id
        )
        SELECT array_agg(s.msg_id ORDER BY s.msg_id) FROM stored s
        $query$,
        q_table,
        CASE WHEN has_headers THEN ', headers' ELSE '' END,
        CASE WHEN has_headers THEN ', nullif(e -> ''headers'', ''null'')' ELSE '' END
    ) INTO ids USING messages, (settings ->> 'delay')::integer;
    RETURN ids;
END
$$;

-- Stores messages in every queue with a binding that the routing key matches, once in each.
CREATE FUNCTION pgmq_gateway.publish(routing_key text, messages jsonb, operation integer)
RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    deliveries jsonb := '[]';
    target text;
BEGIN
    FOR target IN SELECT r.queue FROM pgmq_gateway.route(routing_key) r LOOP
        deliveries := deliveries || (
            SELECT jsonb_agg(jsonb_build_object('queue', target, 'msg_id', s.id) ORDER BY s.id)
            FROM unnest(pgmq_gateway.store(target, messages, operation)) s (id));
    END LOOP;
    RETURN deliveries;
END
$$;

-- Where a message with a routing key would go.
CREATE FUNCTION pgmq_gateway.route(routing_key text)
RETURNS TABLE (queue text) LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pgmq_gateway.need_topics();
    BEGIN
        PERFORM pgmq.validate_routing_key(routing_key);
    EXCEPTION WHEN raise_exception THEN
        RAISE EXCEPTION '%', SQLERRM USING ERRCODE = 'PGW41';
    END;
    RETURN QUERY SELECT DISTINCT r.queue_name::text FROM pgmq.test_routing(routing_key) r ORDER BY 1;
END
$$;

-- Refuses topics where PGMQ has none.
CREATE FUNCTION pgmq_gateway.need_topics()
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF to_regclass('pgmq.topic_bindings') IS NULL THEN
        RAISE EXCEPTION 'topics need PGMQ 1.11.0 or later' USING ERRCODE = 'PGW01';
    END IF;
END
$$;

-- The bindings of all queues, or of one.
CREATE FUNCTION pgmq_gateway.bindings(only_queue text)
RETURNS TABLE (pattern text, queue text, bound_at timestamptz) LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pgmq_gateway.need_topics();
    RETURN QUERY SELECT b.pattern, b.queue_name, b.bound_at FROM pgmq.topic_bindings b
                 WHERE only_queue IS NULL OR b.queue_name = only_queue
                 ORDER BY b.pattern COLLATE "C", b.queue_name COLLATE "C";
END
$$;

-- Binds a queue to a pattern: `bound`, `exists`, `no_queue`, or why the pattern is refused.
CREATE FUNCTION pgmq_gateway.bind(queue text, topic_pattern text)
RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pgmq_gateway.need_topics();
    IF NOT EXISTS (SELECT FROM pgmq.meta m WHERE m.queue_name = queue) THEN
        RETURN 'no_queue';
    END IF;
    IF EXISTS (SELECT FROM pgmq.topic_bindings b
               WHERE b.pattern = topic_pattern AND b.queue_name = queue) THEN
        RETURN 'exists';
    END IF;
    PERFORM pgmq.bind_topic(topic_pattern, queue);
    RETURN 'bound';
EXCEPTION WHEN raise_exception THEN
    RETURN SQLERRM;
END
$$;

-- Ends a binding: `unbound`, `no_queue` or `no_binding`.
CREATE FUNCTION pgmq_gateway.unbind(queue text, topic_pattern text)
RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pgmq_gateway.need_topics();
    DELETE FROM pgmq.topic_bindings b WHERE b.pattern = topic_pattern AND b.queue_name = queue;
    IF FOUND THEN
        RETURN 'unbound';
    ELSIF EXISTS (SELECT FROM pgmq.meta m WHERE m.queue_name = queue) THEN
        RETURN 'no_binding';
    END IF;
    RETURN 'no_queue';
END
$$;

-- Ends one message in a transaction, or fails.
CREATE FUNCTION pgmq_gateway.settle_one(operation jsonb, place integer)
RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    queue text := operation ->> 'queue';
    id bigint := (operation ->> 'msg_id')::bigint;
    hidden_until timestamptz;
    outcome text;
BEGIN
    IF NOT EXISTS (SELECT FROM pgmq.meta m WHERE m.queue_name = queue) THEN
        RAISE EXCEPTION '%', queue USING ERRCODE = 'PGW40', DETAIL = place;
    END IF;
    SELECT s.outcome, s.vt INTO outcome, hidden_until
    FROM pgmq_gateway.settle(
        queue, ARRAY[operation ->> 'action'], ARRAY[id],
        ARRAY[(operation ->> 'read_ct')::integer], ARRAY[(operation ->> 'relation')::oid],
        ARRAY[(operation ->> 'delay')::integer],
        ARRAY[(operation ->> 'visible_at')::timestamptz]) s;
    IF outcome = 'missing' THEN
        RAISE EXCEPTION '%', queue USING ERRCODE = 'PGW04', DETAIL = place || ' ' || id;
    ELSIF outcome = 'stale' THEN
        RAISE EXCEPTION '%', queue USING ERRCODE = 'PGW09', DETAIL = place || ' ' || id;
    END IF;
    IF operation ->> 'action' <> 'hide' THEN
        RETURN jsonb_build_object('msg_id', id);
    END IF;
    RETURN jsonb_build_object('msg_id', id, 'vt', to_char(
        hidden_until AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'));
END
$$;

-- Does operations in order: all, or none if one fails. `outcome` is `done`, `replayed` if a request
-- with the same key was answered before, or `conflict` if that was another request.
CREATE FUNCTION pgmq_gateway.transact(
    operations jsonb, key_scope text, key_text text, request_fingerprint bytea, only_queue text,
    lifetime_seconds integer, OUT outcome text, OUT results jsonb
) LANGUAGE plpgsql AS $$
DECLARE
    operation jsonb;
    place integer := 0;
    claimed record;
BEGIN
    IF key_text IS NOT NULL THEN
        SELECT * INTO claimed FROM pgmq_gateway.claim(
            key_scope, key_text, request_fingerprint,
            CASE WHEN only_queue IS NULL THEN 0
                 ELSE pgmq_gateway.queue_table(only_queue)::oid END, lifetime_seconds);
        IF claimed.conflict OR claimed.answer IS NOT NULL THEN
            outcome := CASE WHEN claimed.conflict THEN 'conflict' ELSE 'replayed' END;
            results := claimed.answer;
            RETURN;
        END IF;
    END IF;
    -- In the same order for everyone, so that two transactions don't wait for each other.
    PERFORM pgmq_gateway.send_in_turn(f.queue) FROM (
        SELECT DISTINCT e ->> 'queue' AS queue FROM jsonb_array_elements(operations) e
        WHERE CASE WHEN e ->> 'action' = 'send'
                   THEN pgmq_gateway.has_fifo_index(e ->> 'queue') ELSE false END
        ORDER BY 1) f;
    results := '[]';
    FOR operation IN SELECT e FROM jsonb_array_elements(operations) WITH ORDINALITY AS o (e, n)
                     ORDER BY o.n
    LOOP
        results := results || jsonb_build_array(CASE operation ->> 'action'
            WHEN 'send' THEN jsonb_build_object('msg_ids', pgmq_gateway.store(
                operation ->> 'queue', operation -> 'messages', place))
            WHEN 'publish' THEN jsonb_build_object('deliveries', pgmq_gateway.publish(
                operation ->> 'routing_key', operation -> 'messages', place))
            ELSE pgmq_gateway.settle_one(operation, place)
        END);
        place := place + 1;
    END LOOP;
    outcome := 'done';
    UPDATE pgmq_gateway.idempotency_keys k SET answer = results
    WHERE k.scope = key_scope AND k.key = key_text;
END
$$;
