-- Several operations in one transaction, and requests that are done once.

-- Claims a key for this transaction; waits for one that claimed it before to end. `answer` is set
-- where that one was answered, `conflict` where it was about something else. What was stored in a queue
-- that is gone is not taken for stored in its successor.
CREATE FUNCTION pgmq_gateway.claim_idempotency_key(
    key_scope text, key_text text, request_fingerprint bytea, key_queue_id bigint,
    lifetime_seconds integer, OUT answer jsonb, OUT conflict boolean
) LANGUAGE plpgsql AS $$
BEGIN
    conflict := false;
    INSERT INTO pgmq_gateway.idempotency_keys AS k (scope, key, fingerprint, queue_id)
    VALUES (key_scope, key_text, request_fingerprint, key_queue_id)
    ON CONFLICT ON CONSTRAINT idempotency_keys_pkey DO UPDATE
    SET fingerprint = excluded.fingerprint, queue_id = excluded.queue_id, answer = NULL,
        created_at = excluded.created_at
    WHERE k.created_at < now() - make_interval(secs => lifetime_seconds)
       OR k.queue_id <> excluded.queue_id;
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
    q_table regclass := pgmq_gateway.find_queue_table(queue);
    has_headers boolean;
    settings jsonb;
    too_large jsonb;
    ids bigint[];
BEGIN
    IF q_table IS NULL OR NOT EXISTS (SELECT FROM pgmq.meta m WHERE m.queue_name = queue) THEN
        RAISE EXCEPTION '%', queue
            USING ERRCODE = 'PGW40', DETAIL = jsonb_build_object('operation', operation);
    END IF;
    has_headers := pgmq_gateway.has_column(q_table, 'headers');
    SELECT s.settings INTO settings FROM pgmq_gateway.queue_settings s
    JOIN pgmq.meta m ON m.queue_name = s.queue_name
     AND (s.bound_created_at = m.created_at
          OR s.database_stamp IS DISTINCT FROM pgmq_gateway.database_stamp())
    WHERE s.queue_name = queue;
    SELECT jsonb_build_object('operation', operation, 'bytes', (e ->> 'bytes')::bigint,
                              'limit', (settings ->> 'max_message_bytes')::bigint)
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
    IF pgmq_gateway.has_fifo_index(q_table) THEN
        PERFORM pgmq_gateway.lock_send_order(queue);
    END IF;
    EXECUTE format(
        $query$
        WITH stored AS (
            INSERT INTO %s (vt, message %s)
            SELECT pgmq_gateway.moment((e ->> 'visible_at')::timestamptz,
                                       coalesce((e ->> 'delay')::integer, $2, 0)),
                   e -> 'message' %s
            FROM jsonb_array_elements($1) WITH ORDINALITY AS new (e, place) ORDER BY new.place
            RETURNING msg_id
        )
        SELECT array_agg(s.msg_id) FROM stored s
        $query$,
        q_table,
        CASE WHEN has_headers THEN ', headers' ELSE '' END,
        CASE WHEN has_headers THEN ', nullif(e -> ''headers'', ''null'')' ELSE '' END
    ) INTO ids USING messages, (settings ->> 'delay')::integer;
    IF coalesce(cardinality(ids), 0) <> jsonb_array_length(messages) THEN
        RAISE EXCEPTION '% of % rows were stored', coalesce(cardinality(ids), 0),
                        jsonb_array_length(messages) USING ERRCODE = 'PGW23';
    END IF;
    RETURN ids;
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
    IF pgmq_gateway.find_queue_table(queue) IS NULL
       OR NOT EXISTS (SELECT FROM pgmq.meta m WHERE m.queue_name = queue) THEN
        RAISE EXCEPTION '%', queue
            USING ERRCODE = 'PGW40', DETAIL = jsonb_build_object('operation', place);
    END IF;
    SELECT s.outcome, s.vt INTO outcome, hidden_until
    FROM pgmq_gateway.settle(
        queue, ARRAY[operation ->> 'action'], ARRAY[id],
        ARRAY[(operation ->> 'read_ct')::integer], ARRAY[(operation ->> 'queue_id')::bigint],
        ARRAY[(operation ->> 'delay')::integer],
        ARRAY[(operation ->> 'visible_at')::timestamptz], false) s;
    IF outcome <> 'done' THEN
        RAISE EXCEPTION '%', queue
            USING ERRCODE = CASE outcome WHEN 'missing' THEN 'PGW04' WHEN 'stale' THEN 'PGW09'
                                         WHEN 'locked' THEN 'PGW55' ELSE 'PGW22' END,
                  DETAIL = jsonb_build_object('operation', place, 'msg_id', id, 'outcome', outcome);
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
) LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '250ms' AS $$
DECLARE
    operation jsonb;
    place integer := 0;
    claimed record;
    code text;
    violated text;
BEGIN
    IF only_queue IS NOT NULL THEN
        PERFORM pgmq_gateway.queue_table(only_queue);
    END IF;
    IF key_text IS NOT NULL THEN
        SELECT * INTO claimed FROM pgmq_gateway.claim_idempotency_key(
            key_scope, key_text, request_fingerprint,
            CASE WHEN only_queue IS NULL THEN 0 ELSE pgmq_gateway.queue_id(only_queue) END,
            lifetime_seconds);
        IF claimed.conflict OR claimed.answer IS NOT NULL THEN
            outcome := CASE WHEN claimed.conflict THEN 'conflict' ELSE 'replayed' END;
            results := claimed.answer;
            RETURN;
        END IF;
    END IF;
    -- In the same order for everyone, so that two transactions don't wait for each other.
    PERFORM pgmq_gateway.lock_send_order(f.queue) FROM (
        SELECT DISTINCT e ->> 'queue' AS queue FROM jsonb_array_elements(operations) e
        WHERE CASE WHEN e ->> 'action' = 'send' THEN pgmq_gateway.has_fifo_index(
                        pgmq_gateway.find_queue_table(e ->> 'queue')) ELSE false END
        ORDER BY 1) f;
    results := '[]';
    FOR operation IN SELECT e FROM jsonb_array_elements(operations) WITH ORDINALITY AS o (e, n)
                     ORDER BY o.n
    LOOP
        BEGIN
            results := results || jsonb_build_array(CASE operation ->> 'action'
                WHEN 'send' THEN jsonb_build_object('msg_ids', pgmq_gateway.store(
                    operation ->> 'queue', operation -> 'messages', place))
                WHEN 'publish' THEN jsonb_build_object('deliveries', pgmq_gateway.publish(
                    operation, place))
                ELSE pgmq_gateway.settle_one(operation, place)
            END);
        EXCEPTION WHEN OTHERS THEN
            GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, violated = CONSTRAINT_NAME;
            IF code = '55P03' OR NOT pgmq_gateway.is_about_a_row(code)
               OR starts_with(code, 'PGW') AND code <> 'PGW23' THEN
                RAISE;
            END IF;
            -- What the table says may hold what is in the row: it is not passed on.
            RAISE EXCEPTION '%', coalesce(operation ->> 'queue', '') USING ERRCODE = 'PGW22',
                DETAIL = jsonb_build_object(
                    'operation', place, 'outcome', pgmq_gateway.outcome_of(code), 'code', code,
                    'constraint', nullif(violated, ''));
        END;
        place := place + 1;
    END LOOP;
    outcome := 'done';
    UPDATE pgmq_gateway.idempotency_keys k SET answer = results
    WHERE k.scope = key_scope AND k.key = key_text;
END
$$;
