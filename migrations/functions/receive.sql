-- Leasing, popping and looking at messages.

-- The condition that a message `q` may be delivered now; `$3` is a filter, `$4` a number of deliveries. With
-- `since`, those are left out that have been visible for longer (floor.sql).
CREATE FUNCTION pgmq_gateway.deliverable(
    relation regclass, filter jsonb, max_receives integer, since timestamptz DEFAULT NULL
) RETURNS text LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN format('q.vt <= statement_timestamp() %s %s %s',
        CASE WHEN since IS NOT NULL THEN pgmq_gateway.since_condition(since) END,
        CASE WHEN filter IS NOT NULL THEN 'AND q.message @> $3' END,
        CASE WHEN max_receives IS NOT NULL
             THEN 'AND NOT ' || pgmq_gateway.exhausted_condition(relation, '$4') END);
END
$$;

-- The statement that locks the message $1 and returns true, if it may be delivered and nobody else is at it;
-- $2 is a filter, $3 a number of deliveries.
CREATE FUNCTION pgmq_gateway.lock_statement(relation regclass, filter jsonb, max_receives integer)
RETURNS text LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN format(
        '/* pgmq_gateway */ SELECT true FROM %s q WHERE q.msg_id = $1 AND %s FOR UPDATE SKIP LOCKED', relation,
        -- By msg_id, and not by the index on vt, from which PostgreSQL may expect as little.
        replace(replace(replace(pgmq_gateway.deliverable(relation, filter, max_receives), '$3', '$2'), '$4', '$3'),
                'q.vt <= statement_timestamp()', '(q.vt <= statement_timestamp()) IS TRUE'));
END
$$;

-- Leases messages. As pgmq.read, but at a cost that does not grow with the messages in flight: it
-- walks the index on vt from its oldest entry, where pgmq.read walks all rows in order of msg_id.
-- The moment is statement_timestamp(), which is the same for the whole statement, so that the index
-- knows where to stop. What has been visible for longest comes first. The rows are updated by where
-- they stand, which leaves the planner no way to walk the whole table instead. A partitioned queue
-- has no such index, and is read by msg_id, as every queue is where `by_id` is wished. So is one with tables that
-- inherit from it: where a row stands is said for one table alone.
--
-- With `max_receives`, messages that were delivered so often are moved away first. Mostly none of those that come next
-- is near that, and no statement is spent on finding out. A last row without msg_id tells how many (`dead`) and, with
-- `want_due` and fewer messages than asked for, after how many seconds the next hidden message becomes visible
-- (`due_in`).
--
-- With `since`, the walk begins there (floor.sql); where it goes by msg_id, it does not.
--
-- A row that its table refuses to update fails the whole, unless it is done `one_by_one`, as it is where
-- a trigger may keep a row as it is: then it is left, and `kept` says how many there are, `kept_code` why. So it is
-- where triggers come after an update: then each row is read again.
--
-- So are those left that are `passed_over`, if they are of the queue `passed_over_of`. Whoever passes them has a
-- statement that runs out of time say at which message it was (`end_at_row`).
CREATE FUNCTION pgmq_gateway.receive(
    queue text, hide_seconds integer, max_messages integer, filter jsonb, by_id boolean,
    want_due boolean, max_receives integer, dead_letter_queue text, one_by_one boolean,
    since timestamptz DEFAULT NULL, passed_over bigint[] DEFAULT NULL, passed_over_of bigint DEFAULT NULL
) RETURNS TABLE (
    msg_id bigint, read_ct integer, enqueued_at timestamptz, last_read_at timestamptz,
    vt timestamptz, message jsonb, headers jsonb, queue_id bigint, due_in float8, dead integer,
    kept integer, kept_code text
) LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms' AS $$
DECLARE
    q_table regclass := to_regclass(format('pgmq.%I', pgmq.format_table_name(queue, 'q')));
    this_queue bigint;
    update_statement text;
    read_again text;
    lock_statement text;
    candidates text;
    candidate bigint;
    is_ours boolean;
    began timestamptz;
    context text;
    found_count integer;
    is_near boolean;
    is_partitioned boolean;
    has_triggers boolean;
    runs_others_code boolean;
    has_stamps boolean;
    has_headers boolean;
    -- Whether rows of one id have to be told apart.
    repeats_ids boolean;
    deliverable text;
    nothing text;
    me name;
    my_role text;
    my_session name;
BEGIN
    IF pgmq_gateway.session_has_changed() THEN
        PERFORM pgmq_gateway.require_own_session();
    END IF;
    -- All that is asked of the catalogue, and the queue's identity where it is written down, in one: the first time that
    -- a transaction comes by, to begin a statement or a call takes longer than what it does.
    SELECT c.relkind = 'p' OR c.relhassubclass, c.relhastriggers,
           c.relkind = 'p' OR c.relhassubclass OR c.relhastriggers OR c.relhasrules OR c.relrowsecurity
               OR c.relchecks > 0,
           EXISTS (SELECT FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid
                   AND a.attname = 'last_read_at' AND NOT a.attisdropped),
           EXISTS (SELECT FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid
                   AND a.attname = 'headers' AND NOT a.attisdropped),
           (SELECT CASE WHEN pgmq_gateway.tells_apart(s.queue_created_at)
                        THEN pgmq_gateway.queue_id_of(s.queue_created_at) END
            FROM pgmq.meta m JOIN pgmq_gateway.queue_settings s
              ON s.queue_name = m.queue_name AND s.bound_created_at = m.created_at
            WHERE m.queue_name = queue)
    INTO is_partitioned, has_triggers, runs_others_code, has_stamps, has_headers, this_queue
    FROM pg_catalog.pg_class c
    WHERE c.oid = q_table AND c.relkind IN ('r', 'p') AND NOT c.relispartition;
    IF is_partitioned IS NULL THEN
        PERFORM pgmq_gateway.refuse_queue(queue);
    END IF;
    -- Mostly nothing stands against taking what comes next. This is less than the same below, of which each expression
    -- is set up anew in each transaction. The moment is hidden from the planner, who would look for its place in the
    -- index to estimate what that gives.
    IF NOT (runs_others_code OR by_id OR one_by_one) AND filter IS NULL AND since IS NULL AND this_queue IS NOT NULL THEN
        RETURN QUERY EXECUTE format(
            $query$/* pgmq_gateway */
            UPDATE %1$s m SET vt = clock_timestamp() + $1, read_ct = m.read_ct + 1 %2$s
            WHERE m.ctid = ANY (ARRAY(SELECT q.ctid FROM %1$s q WHERE q.vt <= (SELECT $5) %3$s
                                      ORDER BY q.vt LIMIT $2 FOR UPDATE SKIP LOCKED))
            RETURNING m.msg_id, m.read_ct, m.enqueued_at, %4$s, m.vt, m.message, %5$s, $3,
                      NULL::float8, NULL::integer, NULL::integer, NULL::text
            $query$,
            q_table,
            CASE WHEN has_stamps THEN ', last_read_at = clock_timestamp()' END,
            CASE WHEN max_receives IS NOT NULL
                 -- None where one of the next may have been delivered often enough. That is found out before any is
                 -- locked, as to move it away may take its time; behind what others have locked may be one, too.
                 THEN format('AND (q.read_ct < $4) IS TRUE AND (
                                  SELECT bool_and((n.read_ct < $4) IS TRUE)
                                  FROM (SELECT q.read_ct FROM %s q WHERE q.vt <= (SELECT $5)
                                        ORDER BY q.vt LIMIT greatest($2, 10)) n)', q_table) END,
            CASE WHEN has_stamps THEN 'm.last_read_at' ELSE 'NULL::timestamptz' END,
            CASE WHEN has_headers THEN 'm.headers' ELSE 'NULL::jsonb' END)
        -- Counted from when a row is taken: to find it may have taken long.
        USING make_interval(secs => hide_seconds), max_messages, this_queue, max_receives, statement_timestamp();
        GET DIAGNOSTICS found_count = ROW_COUNT;
        IF found_count > 0 OR max_receives IS NULL THEN
            IF want_due AND found_count < max_messages THEN
                due_in := pgmq_gateway.due_in(q_table);
                IF due_in IS NOT NULL THEN
                    dead := 0;
                    kept := 0;
                    RETURN NEXT;
                END IF;
            END IF;
            RETURN;
        END IF;
    END IF;
    me := current_user;
    my_role := current_setting('role');
    my_session := session_user;
    repeats_ids := false;
    IF one_by_one THEN
        PERFORM set_config('lock_timeout', '5ms', true);
        PERFORM pgmq_gateway.require_unlocked(q_table);
        PERFORM pgmq_gateway.check_at_once();
    ELSIF has_triggers OR is_partitioned THEN
        one_by_one := pgmq_gateway.has_row_trigger(q_table, 16) OR pgmq_gateway.has_after_trigger(q_table);
    END IF;
    IF this_queue IS NULL THEN
        this_queue := pgmq_gateway.queue_id(queue);
    END IF;
    dead := 0;
    kept := 0;
    by_id := by_id OR is_partitioned;
    since := CASE WHEN NOT by_id AND isfinite(since) THEN since END;
    IF max_receives IS NOT NULL THEN
        SELECT d.moved, d.failed, d.failed_code, d.is_near INTO dead, kept, kept_code, is_near
        FROM pgmq_gateway.dead_letter_exhausted(queue, max_messages, filter, by_id, max_receives,
                                                dead_letter_queue, since) d;
    END IF;
    IF by_id OR one_by_one THEN
        repeats_ids := pgmq_gateway.repeats_ids(q_table);
        one_by_one := one_by_one OR repeats_ids AND pgmq_gateway.has_rules(q_table);
    END IF;
    deliverable := CASE
        WHEN one_by_one OR filter IS NOT NULL OR max_receives IS NOT NULL
        THEN pgmq_gateway.deliverable(q_table, filter, max_receives, since)
        WHEN since IS NOT NULL THEN 'q.vt <= $6 AND q.vt >= $7'
        ELSE 'q.vt <= $6' END;
    candidates := format(
        'SELECT %s FROM %s q WHERE %s ORDER BY q.%s',
        CASE WHEN repeats_ids AND NOT one_by_one THEN 'q.msg_id, q.tableoid AS relation, q.ctid AS place'
             WHEN by_id OR one_by_one THEN 'q.msg_id' ELSE 'q.ctid' END,
        q_table, deliverable, CASE WHEN by_id THEN 'msg_id' ELSE 'vt' END);
    update_statement := format(
        $query$/* pgmq_gateway */
        %6$s UPDATE %1$s m
        SET vt = clock_timestamp() + $1, read_ct = m.read_ct + 1 %2$s
        %3$s
        RETURNING m.msg_id, m.read_ct, m.enqueued_at, %4$s, m.vt, m.message, %5$s, $5::bigint,
                  NULL::float8, NULL::integer, NULL::integer, NULL::text
        $query$,
        q_table,
        CASE WHEN has_stamps THEN ', last_read_at = clock_timestamp()' END,
        CASE WHEN one_by_one THEN 'WHERE m.msg_id = $2' || CASE WHEN repeats_ids
                  THEN ' AND ' || pgmq_gateway.is_first_of(format('FROM %s q WHERE q.msg_id = $2 AND %s', q_table,
                                                                  deliverable)) ELSE '' END
             WHEN repeats_ids THEN 'FROM chosen c WHERE m.msg_id = c.msg_id AND m.tableoid = c.relation
                                                    AND m.ctid = c.place'
             ELSE format('WHERE m.%s = ANY (ARRAY(%s LIMIT $2 FOR UPDATE SKIP LOCKED))',
                         CASE WHEN by_id THEN 'msg_id' ELSE 'ctid' END, candidates) END,
        CASE WHEN has_stamps THEN 'm.last_read_at' ELSE 'NULL::timestamptz' END,
        CASE WHEN has_headers THEN 'm.headers' ELSE 'NULL::jsonb' END,
        CASE WHEN repeats_ids AND NOT one_by_one
             THEN format('WITH chosen AS MATERIALIZED (%s LIMIT $2 FOR UPDATE SKIP LOCKED)', candidates) END);
    IF NOT one_by_one THEN
        -- Where nothing was found above, `is_near` tells whether there is anything at all.
        IF found_count IS NULL OR is_near IS NOT NULL THEN
            RETURN QUERY EXECUTE update_statement
            USING make_interval(secs => hide_seconds), max_messages, filter, max_receives,
                  this_queue, statement_timestamp(), since;
            GET DIAGNOSTICS found_count = ROW_COUNT;
        END IF;
        IF runs_others_code THEN
            -- As in `send`.
            EXECUTE '/* pgmq_gateway */ SET CONSTRAINTS ALL IMMEDIATE';
        END IF;
    ELSE
        found_count := 0;
        PERFORM pgmq_gateway.require_right_to_lease(q_table);
        read_again := pgmq_gateway.read_again_statement(q_table);
        lock_statement := pgmq_gateway.lock_statement(q_table, filter, max_receives);
        FOR candidate IN EXECUTE '/* pgmq_gateway */ ' || replace(replace(candidates, '$3', '$1'), '$4', '$2')
                         USING filter, max_receives LOOP
            EXIT WHEN found_count >= max_messages OR kept >= 1000;
            IF candidate = ANY (passed_over) AND passed_over_of = this_queue THEN
                kept := kept + 1;
                kept_code := '57014';
                CONTINUE;
            END IF;
            msg_id := NULL;
            began := clock_timestamp();
            BEGIN
                EXECUTE lock_statement INTO is_ours USING candidate, filter, max_receives;
                CONTINUE WHEN is_ours IS NULL;
                -- As many as it returns: plpgsql.extra_errors may ask for that.
                EXECUTE update_statement
                INTO msg_id, read_ct, enqueued_at, last_read_at, vt, message, headers, queue_id, nothing,
                     nothing, nothing, nothing
                USING make_interval(secs => hide_seconds), candidate, filter, max_receives, this_queue;
                -- A trigger may have changed it for the rest of the transaction.
                IF current_user <> me THEN
                    PERFORM CASE WHEN session_user <> my_session
                                 THEN set_config('session_authorization', my_session, true) END,
                            set_config('role', my_role, true);
                END IF;
                PERFORM pgmq_gateway.check_at_once();
                IF read_again IS NOT NULL AND msg_id IS NOT NULL THEN
                    EXECUTE read_again
                    INTO msg_id, read_ct, enqueued_at, last_read_at, vt, message, headers
                    USING msg_id, read_ct, enqueued_at, last_read_at, vt, message, headers;
                END IF;
            EXCEPTION WHEN OTHERS OR assert_failure OR query_canceled THEN
                GET STACKED DIAGNOSTICS kept_code = RETURNED_SQLSTATE, context = PG_EXCEPTION_CONTEXT;
                kept_code := pgmq_gateway.code_with_rules(kept_code, q_table);
                IF pgmq_gateway.row_outcome(kept_code, context) IS NULL THEN
                    IF passed_over IS NOT NULL THEN
                        PERFORM pgmq_gateway.end_at_row(kept_code, candidate, this_queue, began);
                    END IF;
                    RAISE;
                END IF;
                msg_id := NULL;
            END;
            IF msg_id IS NULL THEN
                kept := kept + 1;
            ELSE
                found_count := found_count + 1;
                RETURN NEXT;
            END IF;
        END LOOP;
    END IF;
    IF want_due AND found_count < max_messages THEN
        due_in := pgmq_gateway.due_in(q_table);
    END IF;
    IF due_in IS NOT NULL OR dead > 0 OR kept > 0 THEN
        msg_id := NULL;
        RETURN NEXT;
    END IF;
    IF runs_others_code THEN
        PERFORM pgmq_gateway.answer_in_utf8();
    END IF;
END
$$;

-- Ends a statement that ran out of time, naming the message at which it was since it `began` there; nothing where
-- that did not take most of the time.
CREATE FUNCTION pgmq_gateway.end_at_row(code text, id bigint, queue_id bigint, began timestamptz)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF code = '57014' AND clock_timestamp() - began > began - statement_timestamp() THEN
        RAISE query_canceled
        USING MESSAGE = 'a message took too long',
              DETAIL = json_build_object('msg_id', id, 'queue_id', queue_id)::text;
    END IF;
END
$$;

-- pgmq.read, for a queue that is there.
CREATE FUNCTION pgmq_gateway.receive_by_pgmq(
    queue text, hide_seconds integer, max_messages integer, filter jsonb
) RETURNS TABLE (
    msg_id bigint, read_ct integer, enqueued_at timestamptz, last_read_at timestamptz,
    vt timestamptz, message jsonb, headers jsonb, queue_id bigint
) LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms' AS $$
DECLARE
    this_queue bigint;
BEGIN
    PERFORM pgmq_gateway.require_own_session();
    this_queue := pgmq_gateway.queue_id(queue);
    PERFORM pgmq_gateway.checked_queue_name(queue);
    RETURN QUERY SELECT m.msg_id, m.read_ct, m.enqueued_at, m.last_read_at, m.vt, m.message, m.headers,
                        this_queue
                 FROM pgmq.read(queue, hide_seconds, max_messages, coalesce(filter, '{}')) m;
    PERFORM pgmq_gateway.check_at_once();
    PERFORM pgmq_gateway.answer_in_utf8();
END
$$;

-- pgmq.read_with_poll, in the same way.
CREATE FUNCTION pgmq_gateway.receive_with_poll(
    queue text, hide_seconds integer, max_messages integer, max_seconds integer, poll_ms integer,
    filter jsonb
) RETURNS TABLE (
    msg_id bigint, read_ct integer, enqueued_at timestamptz, last_read_at timestamptz,
    vt timestamptz, message jsonb, headers jsonb, queue_id bigint
) LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms' AS $$
DECLARE
    this_queue bigint;
BEGIN
    PERFORM pgmq_gateway.require_own_session();
    this_queue := pgmq_gateway.queue_id(queue);
    PERFORM pgmq_gateway.checked_queue_name(queue);
    RETURN QUERY SELECT m.msg_id, m.read_ct, m.enqueued_at, m.last_read_at, m.vt, m.message, m.headers,
                        this_queue
                 FROM pgmq.read_with_poll(queue, hide_seconds, max_messages, max_seconds, poll_ms,
                                          coalesce(filter, '{}')) m;
    PERFORM pgmq_gateway.check_at_once();
    PERFORM pgmq_gateway.answer_in_utf8();
END
$$;

-- Seconds until the next hidden message of a queue's table becomes visible.
CREATE FUNCTION pgmq_gateway.due_in(q_table regclass)
RETURNS float8 LANGUAGE plpgsql AS $$
DECLARE
    due float8;
BEGIN
    EXECUTE format(
        '/* pgmq_gateway */ SELECT pgmq_gateway.seconds_until(q.vt) FROM %s q
         WHERE q.vt > statement_timestamp() ORDER BY q.vt LIMIT 1', q_table
    ) INTO due;
    RETURN due;
END
$$;

-- Gives back deliveries that nobody took: visible at once, and not counted as delivered. Whoever
-- has been given a message since keeps it: then its read_ct is another, or the stamp of its delivery
-- (read_stamp_of), where one is said. Returns what is still as it was delivered: somebody has it locked, if only
-- because his read came too late for it.
CREATE FUNCTION pgmq_gateway.release(
    queue text, msg_ids bigint[], read_cts integer[], read_stamps bigint[] DEFAULT NULL
)
RETURNS bigint[] LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms' AS $$
DECLARE
    q_table regclass := pgmq_gateway.queue_table(queue);
    given text := format(
        'unnest($1, $2, $3) AS given (msg_id, read_ct, stamp)
         WHERE q.msg_id = given.msg_id AND q.read_ct = given.read_ct AND coalesce(%s = given.stamp, true)',
        pgmq_gateway.read_stamp_of(q_table));
    as_delivered text := format('%s q, %s', q_table, given);
    statement text := format(
        $query$/* pgmq_gateway */
        UPDATE %s q SET vt = clock_timestamp(), read_ct = q.read_ct - 1
        WHERE q.msg_id = ANY (ARRAY(SELECT q.msg_id FROM %s ORDER BY q.msg_id FOR UPDATE OF q SKIP LOCKED))
          AND EXISTS (SELECT FROM %s)
        $query$, q_table, as_delivered, given);
    code text;
    context text;
    held bigint[];
BEGIN
    PERFORM pgmq_gateway.require_own_session();
    PERFORM pgmq_gateway.check_at_once();
    BEGIN
        EXECUTE statement USING msg_ids, read_cts, read_stamps;
        PERFORM pgmq_gateway.check_at_once();
    EXCEPTION WHEN OTHERS OR assert_failure OR query_canceled THEN
        GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, context = PG_EXCEPTION_CONTEXT;
        IF pgmq_gateway.row_outcome(code, context) IS NULL OR cardinality(msg_ids) = 1 THEN
            RAISE;
        END IF;
        PERFORM pgmq_gateway.release_each(statement, msg_ids, read_cts, read_stamps);
    END;
    EXECUTE '/* pgmq_gateway */ SELECT array_agg(q.msg_id) FROM ' || as_delivered
        INTO held USING msg_ids, read_cts, read_stamps;
    RETURN coalesce(held, '{}');
END
$$;

-- The same one by one, each for itself.
CREATE FUNCTION pgmq_gateway.release_each(
    statement text, msg_ids bigint[], read_cts integer[], read_stamps bigint[]
)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    code text;
    context text;
BEGIN
    FOR n IN 1..cardinality(msg_ids) LOOP
        BEGIN
            EXECUTE statement USING ARRAY[msg_ids[n]], ARRAY[read_cts[n]], ARRAY[read_stamps[n]];
            PERFORM pgmq_gateway.check_at_once();
        EXCEPTION WHEN OTHERS OR assert_failure OR query_canceled THEN
            GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, context = PG_EXCEPTION_CONTEXT;
            IF pgmq_gateway.row_outcome(code, context) IS NULL THEN
                RAISE;
            END IF;
        END;
    END LOOP;
END
$$;

-- Messages in order of msg_id, leasing nothing; with `readable_only`, those that can be written out. Where several have
-- the last id, all of them come, as the next ones are asked for behind an id.
CREATE FUNCTION pgmq_gateway.peek(
    queue text, after_msg_id bigint, max_messages integer, readable_only boolean
) RETURNS TABLE (
    msg_id bigint, read_ct integer, enqueued_at timestamptz, last_read_at timestamptz,
    vt timestamptz, message jsonb, headers jsonb, queue_id bigint
) LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms' AS $$
DECLARE
    q_table regclass := pgmq_gateway.queue_table(queue);
BEGIN
    PERFORM pgmq_gateway.require_own_session();
    RETURN QUERY EXECUTE format(
        '/* pgmq_gateway */ SELECT %s, $3 FROM %s m WHERE m.msg_id > $1 %s ORDER BY m.msg_id %s',
        pgmq_gateway.columns(q_table), q_table,
        CASE WHEN readable_only THEN 'AND pgmq_gateway.is_readable($4, m.msg_id)' END,
        pgmq_gateway.page_end(q_table)
    ) USING after_msg_id, max_messages, pgmq_gateway.queue_id(queue), q_table;
END
$$;

-- Where a page of $2 messages ends that are in order of msg_id.
CREATE FUNCTION pgmq_gateway.page_end(relation regclass)
RETURNS text LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN CASE WHEN pgmq_gateway.repeats_ids(relation) THEN 'FETCH FIRST ($2) ROWS WITH TIES'
                ELSE 'LIMIT $2' END;
END
$$;
