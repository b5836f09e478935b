-- Several operations in one transaction, and requests that are done once.

-- Claims a key for this transaction; waits for one that claimed it before to end. `answer` is set
-- where that one was answered, `conflict` where it was about something else, `unreadable` where its answer
-- is none any more. What was stored in a queue that is gone is not taken for stored in its successor. Raises PGW35 where
-- the key is not written down.
CREATE FUNCTION pgmq_gateway.claim_idempotency_key(
    key_scope text, key_text text, request_fingerprint bytea, key_queue_id bigint,
    lifetime_seconds integer, OUT answer jsonb, OUT conflict boolean, OUT unreadable boolean
) LANGUAGE plpgsql AS $$
BEGIN
    conflict := false;
    unreadable := false;
    INSERT INTO pgmq_gateway.idempotency_keys AS k (scope, key, fingerprint, queue_id)
    VALUES (key_scope, key_text, request_fingerprint, key_queue_id)
    ON CONFLICT ON CONSTRAINT idempotency_keys_pkey DO UPDATE
    SET fingerprint = excluded.fingerprint, queue_id = excluded.queue_id, answer = NULL,
        created_at = excluded.created_at
    WHERE k.created_at < now() - make_interval(secs => lifetime_seconds)
       OR k.queue_id <> excluded.queue_id;
    IF NOT FOUND THEN
        SELECT e.answer, e.conflict, e.unreadable INTO answer, conflict, unreadable
        FROM pgmq_gateway.earlier_results(key_scope, key_text, request_fingerprint) e;
        IF conflict IS NULL THEN
            -- As in `earlier_answer`.
            IF NOT pgmq_gateway.may_drop_keys() THEN
                RAISE lock_not_available;
            END IF;
            PERFORM pgmq_gateway.refuse_key();
        END IF;
    END IF;
END
$$;

-- What was answered to the request before that has this key; as of claim_idempotency_key. All are null where
-- there is none.
CREATE FUNCTION pgmq_gateway.earlier_results(
    key_scope text, key_text text, request_fingerprint bytea,
    OUT answer jsonb, OUT conflict boolean, OUT unreadable boolean
) LANGUAGE plpgsql AS $$
BEGIN
    SELECT k.answer, k.fingerprint <> request_fingerprint INTO answer, conflict
    FROM pgmq_gateway.idempotency_keys k WHERE k.scope = key_scope AND k.key = key_text;
    -- Of one that is done, there is an answer.
    unreadable := conflict IS NOT NULL AND coalesce(
        jsonb_typeof(answer) <> 'array'
        OR answer @? '$.** ? (@.type() == "number" && (@ > 1e19 || @ < -1e19))'
        OR NOT pgmq_gateway.is_text(answer::text), true);
END
$$;

-- Fails an operation of a transaction. What a table says of a row may hold what is in it: that is not
-- passed on.
CREATE FUNCTION pgmq_gateway.refuse_operation(
    queue text, operation integer, msg_id bigint, outcome text, code text, violated text
) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '%', queue
        USING ERRCODE = CASE outcome
                  WHEN 'missing' THEN 'PGW04' WHEN 'stale' THEN 'PGW09' WHEN 'locked' THEN 'PGW55'
                  WHEN 'no_archive' THEN 'PGW44' ELSE 'PGW22' END,
              DETAIL = jsonb_build_object(
                  'operation', operation, 'msg_id', msg_id, 'outcome', outcome, 'code', code,
                  'constraint', nullif(violated, ''));
END
$$;

-- Stores messages, given as objects with `message`, `headers`, `delay` or `visible_at`, and `bytes`,
-- with the queue's settings applied. Of one that was sent before, the id is that of the first, and `are_duplicates` says
-- so; it is null where that is asked of none.
CREATE FUNCTION pgmq_gateway.store(
    queue text, messages jsonb, operation integer, at_once boolean, OUT ids bigint[], OUT are_duplicates boolean[]
) LANGUAGE plpgsql AS $$
DECLARE
    q_table regclass := pgmq_gateway.find_queue_table(queue);
    has_headers boolean;
    max_bytes bigint;
    queue_delay bigint;
    too_large jsonb;
    is_deduplicated boolean := false;
    -- What there is to store, an array for each column.
    new record;
    code text;
    context text;
    violated text;
    missing text;
BEGIN
    IF q_table IS NULL OR NOT pgmq_gateway.goes_by(queue) THEN
        PERFORM pgmq_gateway.refuse_queue(queue, operation);
    END IF;
    has_headers := pgmq_gateway.has_column(q_table, 'headers');
    SELECT pgmq_gateway.setting_number(s.settings, 'max_message_bytes', 1, 67108864),
           pgmq_gateway.setting_number(s.settings, 'delay', 0, 315360000)
    INTO max_bytes, queue_delay FROM pgmq_gateway.queue_settings s
    JOIN pgmq.meta m ON m.queue_name = s.queue_name
     AND pgmq_gateway.counts_for(s.bound_created_at, s.database_stamp, s.missing_since, m.created_at)
    WHERE s.queue_name = queue;
    IF NOT FOUND AND pgmq_gateway.are_settings_hidden(queue) THEN
        PERFORM pgmq_gateway.require_shown(queue);
    END IF;
    SELECT jsonb_build_object('operation', operation, 'bytes', (e ->> 'bytes')::bigint,
                              'limit', max_bytes)
    INTO too_large
    FROM jsonb_array_elements(messages) e WHERE (e ->> 'bytes')::bigint > max_bytes LIMIT 1;
    IF too_large IS NOT NULL THEN
        RAISE EXCEPTION '%', queue USING ERRCODE = 'PGW13', DETAIL = too_large;
    END IF;
    IF NOT has_headers
       AND EXISTS (SELECT FROM jsonb_array_elements(messages) e
                   WHERE jsonb_typeof(e -> 'headers') = 'object') THEN
        PERFORM pgmq_gateway.refuse_differing_table(queue, operation, '42703');
        PERFORM pgmq_gateway.need_headers();
    END IF;
    -- Without that right, whoever brings none does not name the column.
    IF has_headers AND NOT has_column_privilege(q_table, 'headers', 'INSERT') THEN
        has_headers := EXISTS (SELECT FROM jsonb_array_elements(messages) e
                               WHERE jsonb_typeof(e -> 'headers') = 'object');
    END IF;
    IF pgmq_gateway.has_fifo_index(q_table) THEN
        PERFORM pgmq_gateway.lock_send_order(queue);
        is_deduplicated := EXISTS (SELECT FROM jsonb_array_elements(messages) e
                                   WHERE jsonb_typeof(e -> 'headers') = 'object'
                                     AND e -> 'headers' ? 'x-deduplication-id');
    END IF;
    BEGIN
        SELECT array_agg(e -> 'message' ORDER BY place) AS messages,
               array_agg(nullif(e -> 'headers', 'null') ORDER BY place) AS headers,
               array_agg(coalesce((e ->> 'delay')::integer, queue_delay, 0)::integer ORDER BY place) AS delays,
               array_agg((e ->> 'visible_at')::timestamptz ORDER BY place) AS visible_at
        INTO new FROM jsonb_array_elements(messages) WITH ORDINALITY AS m (e, place);
        IF is_deduplicated THEN
            SELECT array_agg(pgmq_gateway.unmarked_id(s.id) ORDER BY s.place),
                   array_agg(pgmq_gateway.unmarked_id(s.id) <> s.id ORDER BY s.place)
            INTO ids, are_duplicates
            FROM pgmq_gateway.send_deduplicated(
                queue, pgmq_gateway.insert_statement(q_table, has_headers), new.messages, new.headers,
                new.delays, new.visible_at) WITH ORDINALITY AS s (id, place);
        ELSE
            ids := ARRAY(SELECT s FROM pgmq_gateway.insert_rows(
                pgmq_gateway.insert_statement(q_table, has_headers), new.messages, new.headers, new.delays,
                new.visible_at) s);
        END IF;
        IF coalesce(cardinality(ids), 0) <> jsonb_array_length(messages) THEN
            RAISE SQLSTATE 'PGW23';
        END IF;
        IF at_once THEN
            PERFORM pgmq_gateway.check_at_once();
        END IF;
    EXCEPTION WHEN OTHERS OR assert_failure OR query_canceled THEN
        GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, context = PG_EXCEPTION_CONTEXT,
                                violated = CONSTRAINT_NAME;
        code := pgmq_gateway.code_with_rules(code, q_table);
        IF pgmq_gateway.is_deduplication_refused(code, context) THEN
            PERFORM pgmq_gateway.refuse_operation(queue, operation, NULL, 'unnoted', code, NULL);
        ELSIF pgmq_gateway.row_outcome(code, context) IS NULL THEN
            PERFORM pgmq_gateway.refuse_differing_table(queue, operation, code);
            RAISE;
        END IF;
        missing := pgmq_gateway.missing_part(q_table, code, context, violated);
        IF missing IS NOT NULL THEN
            PERFORM pgmq_gateway.refuse_operation(queue, operation, NULL, 'differs', code, missing);
        END IF;
        -- The role may lack the right to store anything there.
        PERFORM pgmq_gateway.refuse_operation(
            queue, operation, NULL,
            CASE WHEN pgmq_gateway.has_privilege_on(q_table, 'INSERT', '{vt,message}')
                  AND pgmq_gateway.has_privilege_on(q_table, 'SELECT', '{msg_id}')
                 THEN pgmq_gateway.store_outcome(q_table, code, context) ELSE 'no_right' END, code, violated);
    END;
END
$$;

-- Whether the role has the rights that it takes to do this to messages.
CREATE FUNCTION pgmq_gateway.may_settle(queue text, action text)
RETURNS boolean LANGUAGE plpgsql STABLE AS $$
DECLARE
    q_table regclass := pgmq_gateway.queue_table(queue);
BEGIN
    -- They are locked first.
    RETURN has_column_privilege(q_table, 'msg_id', 'SELECT') AND has_any_column_privilege(q_table, 'UPDATE')
       AND CASE action
           WHEN 'hide' THEN has_column_privilege(q_table, 'vt', 'UPDATE')
           WHEN 'archive' THEN has_table_privilege(q_table, 'DELETE')
                AND has_any_column_privilege(pgmq_gateway.archive_table(queue), 'INSERT')
                AND pgmq_gateway.has_privilege_on(q_table, 'SELECT', '{msg_id,read_ct,enqueued_at,vt,message}')
           ELSE has_table_privilege(q_table, 'DELETE') END;
END
$$;

-- What an operation came to that stored messages, with a mark where all of them were stored before.
CREATE FUNCTION pgmq_gateway.stored_result(ids bigint[], are_duplicates boolean[])
RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$
    SELECT jsonb_build_object('msg_ids', ids)
           || CASE WHEN true = ALL (are_duplicates) THEN '{"duplicate": true}' ELSE '{}' END::jsonb
$$;

-- Ends one message in a transaction, or fails.
CREATE FUNCTION pgmq_gateway.settle_one(operation jsonb, place integer, at_once boolean)
RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    queue text := operation ->> 'queue';
    id bigint := (operation ->> 'msg_id')::bigint;
    hidden_until timestamptz;
    outcome text;
    code text;
    context text;
BEGIN
    IF pgmq_gateway.find_queue_table(queue) IS NULL OR NOT pgmq_gateway.goes_by(queue) THEN
        PERFORM pgmq_gateway.refuse_queue(queue, place);
    END IF;
    BEGIN
        SELECT s.outcome, s.vt INTO outcome, hidden_until
        FROM pgmq_gateway.settle(
            queue, ARRAY[operation ->> 'action'], ARRAY[id],
            ARRAY[(operation ->> 'read_ct')::integer], ARRAY[(operation ->> 'read_stamp')::bigint],
            ARRAY[(operation ->> 'queue_id')::bigint], ARRAY[(operation ->> 'delay')::integer],
            ARRAY[(operation ->> 'visible_at')::timestamptz], NULL, NULL, NULL, NULL,
            one_by_one => NULL) s;
        IF at_once THEN
            PERFORM pgmq_gateway.check_at_once();
        END IF;
    EXCEPTION WHEN OTHERS OR assert_failure OR query_canceled THEN
        GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, context = PG_EXCEPTION_CONTEXT;
        code := pgmq_gateway.code_with_rules(code, pgmq_gateway.find_queue_table(queue));
        outcome := pgmq_gateway.row_outcome(code, context);
        IF outcome IS NULL THEN
            PERFORM pgmq_gateway.refuse_differing_table(queue, place, code);
            RAISE;
        ELSIF code = '42501' AND NOT pgmq_gateway.may_settle(queue, operation ->> 'action') THEN
            outcome := 'no_right';
        END IF;
    END;
    IF outcome <> 'done' THEN
        PERFORM pgmq_gateway.refuse_operation(queue, place, id, outcome, code, NULL);
    END IF;
    RETURN pgmq_gateway.settled_result(operation ->> 'action', id, hidden_until);
END
$$;

-- What an operation came to that ended a message, or hid it until a moment. What no calendar has, as triggers may set
-- it, is the first or last moment there is, as elsewhere.
CREATE FUNCTION pgmq_gateway.settled_result(action text, id bigint, hidden_until timestamptz)
RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    IF action <> 'hide' THEN
        RETURN jsonb_build_object('msg_id', id);
    END IF;
    hidden_until := least(greatest(hidden_until, '0001-01-01 00:00:00+00'), '9999-12-31 00:00:00+00');
    RETURN jsonb_build_object('msg_id', id, 'vt', to_char(
        hidden_until AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'));
END
$$;

-- Does operations in order: all, or none if one fails. `outcome` is `done`, `replayed` if a request
-- with the same key was answered before, `unreadable` if that answer is none any more, or `conflict` if that
-- was another request. What may wait for the end of the transaction is checked when all are done, or `at_once`, which
-- tells the operation that is to blame.
CREATE FUNCTION pgmq_gateway.transact(
    operations jsonb, key_scope text, key_text text, request_fingerprint bytea,
    lifetime_seconds integer, at_once boolean, OUT outcome text, OUT results jsonb
) LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '100ms' AS $$
BEGIN
    PERFORM pgmq_gateway.require_own_session();
    IF at_once THEN
        PERFORM pgmq_gateway.check_at_once();
    END IF;
    SELECT t.outcome, t.results INTO outcome, results FROM pgmq_gateway.transact_one(
        operations, key_scope, key_text, request_fingerprint, lifetime_seconds, at_once) t;
    -- The commit would wait for a lock without a bound.
    PERFORM pgmq_gateway.check_at_once();
END
$$;

-- The same, for those that have settled how long it waits, and have called check_at_once where it is `at_once`.
CREATE FUNCTION pgmq_gateway.transact_one(
    operations jsonb, key_scope text, key_text text, request_fingerprint bytea,
    lifetime_seconds integer, at_once boolean, OUT outcome text, OUT results jsonb
) LANGUAGE plpgsql AS $$
DECLARE
    operation jsonb;
    place integer := 0;
    claimed record;
BEGIN
    IF key_text IS NOT NULL THEN
        SELECT * INTO claimed FROM pgmq_gateway.claim_idempotency_key(
            key_scope, key_text, request_fingerprint, 0, lifetime_seconds);
        IF claimed.conflict OR claimed.unreadable OR claimed.answer IS NOT NULL THEN
            outcome := CASE WHEN claimed.conflict THEN 'conflict'
                            WHEN claimed.unreadable THEN 'unreadable' ELSE 'replayed' END;
            results := CASE WHEN outcome = 'replayed' THEN claimed.answer END;
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
        results := results || jsonb_build_array(CASE operation ->> 'action'
            WHEN 'send' THEN (
                SELECT pgmq_gateway.stored_result(s.ids, s.are_duplicates)
                FROM pgmq_gateway.store(operation ->> 'queue', operation -> 'messages', place, at_once) s)
            WHEN 'publish' THEN jsonb_build_object('deliveries', pgmq_gateway.publish(
                operation, place, at_once))
            ELSE pgmq_gateway.settle_one(operation, place, at_once)
        END);
        place := place + 1;
    END LOOP;
    outcome := 'done';
    IF key_text IS NOT NULL THEN
        PERFORM pgmq_gateway.note_answers(ARRAY[key_scope], ARRAY[key_text], ARRAY[results]);
    END IF;
END
$$;
