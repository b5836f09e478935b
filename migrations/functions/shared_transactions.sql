-- Transactions of several clients in one statement, with one commit. Each is done as a whole or not at all, and
-- none is in the way of another.
--
-- All of them are done together first: what goes to the same queue is one INSERT, what is settled there one call.
-- Where that fails for some, all is undone and done again without these, which are done one after the other, each
-- in a subtransaction. The gateway does apart what is not done here: why it fails is told there.

-- What there is to know of a queue by those who store messages in it; `relation` is null where there is none.
CREATE FUNCTION pgmq_gateway.send_target(
    queue text, OUT relation regclass, OUT has_headers boolean, OUT is_fifo boolean,
    OUT max_bytes bigint, OUT delay bigint
) LANGUAGE plpgsql STABLE AS $$
BEGIN
    relation := pgmq_gateway.find_queue_table(queue);
    IF relation IS NULL THEN
        RETURN;
    END IF;
    SELECT pgmq_gateway.setting_number(s.settings, 'max_message_bytes', 1, 67108864),
           pgmq_gateway.setting_number(s.settings, 'delay', 0, 315360000)
    INTO max_bytes, delay
    FROM pgmq.meta m LEFT JOIN pgmq_gateway.queue_settings s
      ON s.queue_name = m.queue_name
     AND pgmq_gateway.counts_for(s.bound_created_at, s.database_stamp, s.missing_since, m.created_at)
    WHERE m.queue_name = queue;
    IF NOT FOUND THEN
        relation := NULL;
        RETURN;
    END IF;
    has_headers := pgmq_gateway.has_column(relation, 'headers');
    is_fifo := pgmq_gateway.has_fifo_index(relation);
END
$$;

-- Undoes what was done together, as some have to be left out: says what is to become of each.
CREATE FUNCTION pgmq_gateway.leave_out(outcomes text[])
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'some are in the way' USING ERRCODE = 'PGW98', DETAIL = outcomes::text;
END
$$;

-- What is to become of those of which an error says that they cannot be done together; null where the whole
-- statement was told to stop.
CREATE FUNCTION pgmq_gateway.outcome_apart(code text, context text)
RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN pgmq_gateway.is_told_to_stop(code, context) THEN NULL
           WHEN code IN ('55P03', 'PGW55') OR left(code, 2) = '40' THEN 'locked' ELSE 'each' END
$$;

-- The queues that a routing key leads to, for a publication that shares a statement; null where that is to be
-- told by one that does not: the key is bad, or there are too many.
CREATE FUNCTION pgmq_gateway.few_targets(routing_key text, allowed_queues text)
RETURNS text[] LANGUAGE plpgsql AS $$
DECLARE
    targets text[];
BEGIN
    targets := ARRAY(SELECT r.queue FROM pgmq_gateway.route_within(routing_key, allowed_queues) r);
    RETURN CASE WHEN cardinality(targets) <= 64 THEN targets END;
EXCEPTION WHEN OTHERS OR assert_failure THEN
    PERFORM pgmq_gateway.lose_patience(SQLSTATE);
    RETURN NULL;
END
$$;

-- Takes the lock of lock_send_order; others have it for as long as a commit takes.
CREATE FUNCTION pgmq_gateway.wait_for_send_order(queue text)
RETURNS void LANGUAGE plpgsql SET lock_timeout = '25ms' AS $$
BEGIN
    PERFORM pgmq_gateway.lock_send_order(queue);
END
$$;

-- Notes the answers to requests that have claimed their keys; those without an answer are passed over. Raises PGW35
-- where one is not noted.
CREATE FUNCTION pgmq_gateway.note_answers(scopes text[], keys text[], answers jsonb[])
RETURNS void LANGUAGE plpgsql SET enable_seqscan = off AS $$
BEGIN
    FOR n IN 1..cardinality(keys) LOOP
        IF keys[n] IS NOT NULL AND answers[n] IS NOT NULL THEN
            UPDATE pgmq_gateway.idempotency_keys k SET answer = answers[n]
            WHERE k.scope = scopes[n] AND k.key = keys[n];
            IF NOT FOUND THEN
                PERFORM pgmq_gateway.refuse_key();
            END IF;
        END IF;
    END LOOP;
END
$$;

-- Does transactions together of which `outcomes` says `ready`: all of these, or the whole fails, with PGW98 and
-- new outcomes where those are known that are to blame. Sets the outcome of each, which is `each` for one that
-- has to be done after the others and `alone` or `locked` for one that has to be done apart, and what the
-- operations of each came to.
CREATE FUNCTION pgmq_gateway.transact_together(
    transactions bytea[], scopes text[], keys text[], fingerprints bytea[], lifetimes integer[],
    INOUT outcomes text[], OUT results jsonb[]
) LANGUAGE plpgsql AS $$
DECLARE
    -- Of each operation: its transaction and what it is.
    owners integer[];
    operations jsonb[];
    op_results jsonb[];
    -- Of each queue that a routing key leads to, as far as certain queues are allowed.
    route_keys text[] := '{}';
    route_scopes text[] := '{}';
    route_queues text[] := '{}';
    targets text[];
    -- Of each row to store: its operation, its queue, and what it is.
    row_ops integer[];
    row_queues text[];
    row_messages jsonb[];
    row_ids bigint[];
    -- Of each queue in which something is stored.
    queues text[] := '{}';
    statements text[] := '{}';
    delays bigint[] := '{}';
    in_turn boolean[] := '{}';
    ids bigint[];
    -- Whether some have to be left out, so that all is undone.
    is_hindered boolean := false;
    code text;
    context text;
    claimed_places integer[];
    one record;
    other record;
    n integer;
BEGIN
    results := array_fill(NULL::jsonb, ARRAY[cardinality(transactions)]);
    SELECT array_agg(o.owner), array_agg(o.e) INTO owners, operations
    FROM (SELECT t.n::integer AS owner, o.e
          FROM unnest(transactions) WITH ORDINALITY AS t (body, n),
               jsonb_array_elements(convert_from(t.body, 'UTF8')::jsonb) WITH ORDINALITY AS o (e, n)
          WHERE outcomes[t.n] = 'ready' ORDER BY t.n, o.n) o;
    op_results := array_fill(NULL::jsonb, ARRAY[cardinality(operations)]);

    -- Messages are settled before others are stored: what is the other way round, or about a message that
    -- another operation is about, is done in its own order.
    FOR n IN
        SELECT DISTINCT w.owner FROM (
            SELECT o.owner,
                   bool_or(o.e ->> 'action' = 'send') OVER (PARTITION BY o.owner ORDER BY o.i) AS is_late,
                   row_number() OVER (PARTITION BY o.e ->> 'queue', o.e ->> 'msg_id' ORDER BY o.i) AS nth,
                   o.e ->> 'action' IN ('delete', 'archive', 'hide') AS settles
            FROM unnest(owners, operations) WITH ORDINALITY AS o (owner, e, i)) w
        WHERE w.settles AND (w.is_late OR w.nth > 1)
    LOOP
        outcomes[n] := 'each';
    END LOOP;

    FOR one IN SELECT o.e ->> 'routing_key' AS key, o.e ->> 'allowed_queues' AS allowed,
                      array_agg(DISTINCT o.owner) AS owners
               FROM unnest(owners, operations) AS o (owner, e)
               WHERE o.e ->> 'action' = 'publish' GROUP BY 1, 2
    LOOP
        targets := pgmq_gateway.few_targets(one.key, one.allowed);
        IF targets IS NULL THEN
            FOREACH n IN ARRAY one.owners LOOP
                outcomes[n] := 'alone';
            END LOOP;
        ELSE
            route_queues := route_queues || targets;
            route_keys := route_keys || array_fill(one.key, ARRAY[cardinality(targets)]);
            route_scopes := route_scopes || array_fill(one.allowed, ARRAY[cardinality(targets)]);
        END IF;
    END LOOP;

    SELECT array_agg(r.op), array_agg(r.queue), array_agg(r.e) INTO row_ops, row_queues, row_messages
    FROM (
        SELECT o.i::integer AS op, t.queue, m.e
        FROM unnest(owners, operations) WITH ORDINALITY AS o (owner, e, i)
        CROSS JOIN LATERAL (
            SELECT o.e ->> 'queue' AS queue, 0 AS n WHERE o.e ->> 'action' = 'send'
            UNION ALL
            SELECT r.queue, r.n FROM unnest(route_keys, route_scopes, route_queues) WITH ORDINALITY
                                     AS r (key, allowed, queue, n)
            WHERE o.e ->> 'action' = 'publish' AND r.key = o.e ->> 'routing_key'
              AND r.allowed IS NOT DISTINCT FROM o.e ->> 'allowed_queues') t
        CROSS JOIN LATERAL jsonb_array_elements(o.e -> 'messages') WITH ORDINALITY AS m (e, n)
        WHERE outcomes[o.owner] = 'ready' ORDER BY o.i, t.n, m.n) r;
    row_ids := array_fill(NULL::bigint, ARRAY[coalesce(cardinality(row_ops), 0)]);

    -- What is too large is told by one that does not share.
    FOR n IN
        SELECT owners[r.op] FROM unnest(row_ops, row_messages) AS r (op, e) GROUP BY r.op
        HAVING count(*) > 256 OR count(*) > (operations[r.op] ->> 'max_deliveries')::bigint
            OR sum((r.e ->> 'bytes')::bigint) > (operations[r.op] ->> 'max_bytes')::bigint
    LOOP
        outcomes[n] := 'alone';
    END LOOP;
    FOR one IN
        SELECT r.queue, r.with_headers, r.is_deduplicated, r.largest, t.*
        FROM (SELECT r.queue, max((r.e ->> 'bytes')::bigint) AS largest,
                     bool_or(jsonb_typeof(r.e -> 'headers') = 'object') AS with_headers,
                     bool_or(coalesce(r.e -> 'headers' ? 'x-deduplication-id', false)) AS is_deduplicated
              FROM unnest(row_queues, row_messages) AS r (queue, e) GROUP BY r.queue) r,
             LATERAL pgmq_gateway.send_target(r.queue) t
    LOOP
        IF one.relation IS NULL OR one.largest > one.max_bytes
           OR one.with_headers AND (NOT one.has_headers OR one.is_fifo AND one.is_deduplicated) THEN
            FOR other IN
                SELECT owners[r.op] AS owner, one.relation IS NULL AS is_missing,
                       (r.e ->> 'bytes')::bigint > one.max_bytes AS is_large,
                       jsonb_typeof(r.e -> 'headers') = 'object' AS with_headers,
                       r.e -> 'headers' ? 'x-deduplication-id' AS is_deduplicated
                FROM unnest(row_ops, row_queues, row_messages) AS r (op, queue, e)
                WHERE r.queue = one.queue
            LOOP
                IF other.is_missing OR other.is_large OR other.with_headers AND NOT one.has_headers THEN
                    outcomes[other.owner] := 'alone';
                ELSIF one.is_fifo AND other.is_deduplicated AND outcomes[other.owner] = 'ready' THEN
                    outcomes[other.owner] := 'each';
                END IF;
            END LOOP;
        END IF;
        IF one.relation IS NOT NULL THEN
            queues := queues || one.queue;
            statements := statements || pgmq_gateway.insert_statement(one.relation, one.has_headers);
            delays := delays || one.delay;
            in_turn := in_turn || one.is_fifo;
        END IF;
    END LOOP;

    IF keys IS NOT NULL THEN
        claimed_places := pgmq_gateway.claim_idempotency_keys(
            NULL, scopes, ARRAY(SELECT CASE WHEN outcomes[k.n] = 'ready' THEN k.key END
                          FROM unnest(keys) WITH ORDINALITY AS k (key, n) ORDER BY k.n),
            fingerprints, lifetimes, 0);
        FOR n IN 1..cardinality(keys) LOOP
            IF keys[n] IS NOT NULL AND outcomes[n] = 'ready' AND n <> ALL (claimed_places) THEN
                outcomes[n] := 'earlier';
            END IF;
        END LOOP;
    END IF;

    FOR one IN
        SELECT o.e ->> 'queue' AS queue, array_agg(o.i::integer) AS ops,
               array_agg(o.e ->> 'action') AS actions, array_agg((o.e ->> 'msg_id')::bigint) AS ids,
               array_agg((o.e ->> 'read_ct')::integer) AS read_cts,
               array_agg((o.e ->> 'read_stamp')::bigint) AS read_stamps,
               array_agg((o.e ->> 'queue_id')::bigint) AS queue_ids,
               array_agg((o.e ->> 'delay')::integer) AS delays,
               array_agg((o.e ->> 'visible_at')::timestamptz) AS visible_at
        FROM unnest(owners, operations) WITH ORDINALITY AS o (owner, e, i)
        WHERE outcomes[o.owner] = 'ready' AND o.e ->> 'action' IN ('delete', 'archive', 'hide')
        GROUP BY 1 ORDER BY 1
    LOOP
        BEGIN
            code := 'alone';
            IF pgmq_gateway.queue_exists(one.queue)
               AND NOT pgmq_gateway.is_large(one.queue, one.actions, one.ids) THEN
                -- What follows has a patience of its own.
                PERFORM pgmq_gateway.require_unlocked(pgmq_gateway.queue_table(one.queue));
                FOR other IN SELECT s.place, s.outcome, s.vt FROM pgmq_gateway.settle(
                    one.queue, one.actions, one.ids, one.read_cts, one.read_stamps, one.queue_ids,
                    one.delays, one.visible_at, NULL, NULL, NULL, NULL, one_by_one => NULL) s
                LOOP
                    n := one.ops[other.place];
                    IF other.outcome <> 'done' THEN
                        outcomes[owners[n]] := 'alone';
                        is_hindered := true;
                    END IF;
                    op_results[n] := pgmq_gateway.settled_result(
                        one.actions[other.place], one.ids[other.place], other.vt);
                END LOOP;
                CONTINUE;
            END IF;
        EXCEPTION WHEN OTHERS OR assert_failure OR query_canceled THEN
            GET STACKED DIAGNOSTICS context = PG_EXCEPTION_CONTEXT;
            code := pgmq_gateway.outcome_apart(SQLSTATE, context);
            IF code IS NULL THEN
                RAISE;
            END IF;
            PERFORM pgmq_gateway.lose_patience(SQLSTATE);
        END;
        is_hindered := true;
        FOREACH n IN ARRAY one.ops LOOP
            outcomes[owners[n]] := code;
        END LOOP;
    END LOOP;

    -- Where others are held back until this is committed comes last.
    FOR one IN
        SELECT q.queue, q.statement, q.in_turn, array_agg(r.i::integer ORDER BY r.i) AS rows,
               array_agg(r.e -> 'message' ORDER BY r.i) AS messages,
               array_agg(nullif(r.e -> 'headers', 'null') ORDER BY r.i) AS headers,
               array_agg(coalesce((r.e ->> 'delay')::integer, q.delay, 0)::integer ORDER BY r.i) AS delays,
               array_agg((r.e ->> 'visible_at')::timestamptz ORDER BY r.i) AS visible_at
        FROM unnest(row_ops, row_queues, row_messages) WITH ORDINALITY AS r (op, queue, e, i)
        JOIN unnest(queues, statements, delays, in_turn) AS q (queue, statement, delay, in_turn)
          ON q.queue = r.queue
        WHERE outcomes[owners[r.op]] = 'ready'
        GROUP BY q.queue, q.statement, q.in_turn ORDER BY q.in_turn, q.queue
    LOOP
        BEGIN
            IF one.in_turn THEN
                PERFORM pgmq_gateway.wait_for_send_order(one.queue);
            END IF;
            ids := ARRAY(SELECT s FROM pgmq_gateway.insert_rows(
                one.statement, one.messages, one.headers, one.delays, one.visible_at) s);
            IF coalesce(cardinality(ids), 0) <> cardinality(one.rows) THEN
                RAISE SQLSTATE 'PGW23';
            END IF;
            FOR i IN 1..cardinality(ids) LOOP
                row_ids[one.rows[i]] := ids[i];
            END LOOP;
        EXCEPTION WHEN OTHERS OR assert_failure OR query_canceled THEN
            GET STACKED DIAGNOSTICS context = PG_EXCEPTION_CONTEXT;
            code := pgmq_gateway.outcome_apart(SQLSTATE, context);
            IF code IS NULL THEN
                RAISE;
            END IF;
            is_hindered := true;
            FOREACH n IN ARRAY one.rows LOOP
                outcomes[owners[row_ops[n]]] := code;
            END LOOP;
            PERFORM pgmq_gateway.lose_patience(SQLSTATE);
        END;
    END LOOP;
    IF is_hindered THEN
        PERFORM pgmq_gateway.leave_out(outcomes);
    END IF;
    PERFORM pgmq_gateway.check_at_once();

    FOR one IN
        SELECT o.owner, jsonb_agg(CASE o.e ->> 'action'
                   WHEN 'send' THEN jsonb_build_object('msg_ids', s.ids)
                   WHEN 'publish' THEN jsonb_build_object('deliveries', coalesce(s.deliveries, '[]'))
                   ELSE op_results[o.i] END ORDER BY o.i) AS results
        FROM unnest(owners, operations) WITH ORDINALITY AS o (owner, e, i)
        LEFT JOIN (
            SELECT r.op, jsonb_agg(r.id ORDER BY r.i) AS ids,
                   jsonb_agg(jsonb_build_object('queue', pgmq_gateway.as_text(r.queue), 'msg_id', r.id)
                             ORDER BY r.i) AS deliveries
            FROM unnest(row_ops, row_queues, row_ids) WITH ORDINALITY AS r (op, queue, id, i)
            GROUP BY r.op) s ON s.op = o.i
        WHERE outcomes[o.owner] = 'ready' GROUP BY o.owner
    LOOP
        results[one.owner] := one.results;
        outcomes[one.owner] := 'done';
    END LOOP;
    IF keys IS NOT NULL THEN
        PERFORM pgmq_gateway.note_answers(scopes, keys, results);
        FOR n IN 1..cardinality(keys) LOOP
            IF outcomes[n] = 'earlier' THEN
                SELECT e.* INTO other
                FROM pgmq_gateway.earlier_results(scopes[n], keys[n], fingerprints[n]) e;
                outcomes[n] := CASE WHEN other.conflict THEN 'conflict' WHEN other.answer IS NULL THEN 'alone'
                                    WHEN other.unreadable THEN 'unreadable' ELSE 'replayed' END;
                results[n] := CASE WHEN outcomes[n] = 'replayed' THEN other.answer END;
            END IF;
        END LOOP;
    END IF;
END
$$;

-- Does transactions of several requests, each as `transact` does: what is given are the bytes of their
-- operations. `outcome` is as there or, where nothing was done for a request, `alone`, and `locked` where that is
-- because of what somebody has locked. No lock is waited for longer than a moment, and once that was in vain the
-- next one hardly.
CREATE FUNCTION pgmq_gateway.transact_each(
    transactions bytea[], scopes text[], keys text[], fingerprints bytea[], lifetimes integer[]
) RETURNS TABLE (place integer, outcome text, results jsonb)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '10ms' AS $$
DECLARE
    until timestamptz := clock_timestamp() + interval '100 ms';
    outcomes text[] := array_fill('ready'::text, ARRAY[cardinality(transactions)]);
    answers jsonb[] := array_fill(NULL::jsonb, ARRAY[cardinality(transactions)]);
    attempts integer := 0;
    code text;
    context text;
    words text;
BEGIN
    PERFORM pgmq_gateway.require_own_session();
    PERFORM pgmq_gateway.check_at_once();
    WHILE 'ready' = ANY (outcomes) LOOP
        attempts := attempts + 1;
        BEGIN
            SELECT t.outcomes, t.results INTO STRICT outcomes, answers
            FROM pgmq_gateway.transact_together(
                transactions, scopes, keys, fingerprints, lifetimes, outcomes) t;
            outcomes := array_replace(outcomes, 'ready', 'each');
        EXCEPTION WHEN OTHERS OR assert_failure OR query_canceled THEN
            GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, words = PG_EXCEPTION_DETAIL,
                                    context = PG_EXCEPTION_CONTEXT;
            IF pgmq_gateway.is_told_to_stop(code, context) THEN
                RAISE;
            ELSIF code = 'PGW98' THEN
                outcomes := array_replace(words::text[], 'earlier', 'ready');
            END IF;
            IF code <> 'PGW98' OR attempts = 3 THEN
                outcomes := array_replace(outcomes, 'ready', 'each');
            END IF;
            PERFORM pgmq_gateway.lose_patience(code);
        END;
    END LOOP;
    FOR i IN 1..cardinality(transactions) LOOP
        place := i;
        outcome := outcomes[i];
        results := answers[i];
        IF outcome = 'each' THEN
            outcome := 'alone';
            results := NULL;
            BEGIN
                IF clock_timestamp() < until THEN
                    SELECT t.outcome, t.results INTO outcome, results FROM pgmq_gateway.transact_one(
                        convert_from(transactions[i], 'UTF8')::jsonb, scopes[i], keys[i],
                        fingerprints[i], lifetimes[i], true) t;
                END IF;
            EXCEPTION WHEN OTHERS OR assert_failure OR query_canceled THEN
                GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, context = PG_EXCEPTION_CONTEXT;
                outcome := replace(pgmq_gateway.outcome_apart(code, context), 'each', 'alone');
                IF outcome IS NULL THEN
                    RAISE;
                END IF;
                results := NULL;
                PERFORM pgmq_gateway.lose_patience(code);
            END;
        END IF;
        RETURN NEXT;
    END LOOP;
END
$$;
