-- Messages that were delivered in vain.

-- How many times a message was delivered, not counting what happened before it came into a
-- dead-letter queue. Headers that claim more than there was don't count; no sender's claim is stored.
CREATE FUNCTION pgmq_gateway.deliveries(read_ct integer, headers jsonb)
RETURNS integer LANGUAGE sql IMMUTABLE AS $$
    SELECT read_ct - CASE
        WHEN jsonb_typeof(headers -> 'x-dead-letter-read-ct') = 'number'
         AND (headers ->> 'x-dead-letter-read-ct')::numeric BETWEEN 0 AND read_ct
        THEN (headers ->> 'x-dead-letter-read-ct')::numeric::integer
        ELSE 0
    END
$$;

-- The condition that a message `q` was delivered so often that it is not delivered again; `$n` is
-- the number.
CREATE FUNCTION pgmq_gateway.exhausted_condition(relation regclass, max_receives text)
RETURNS text LANGUAGE plpgsql STABLE AS $$
BEGIN
    -- What says more costs more, and mostly is not asked for.
    RETURN format('(q.read_ct >= %2$s AND pgmq_gateway.deliveries(q.read_ct, %1$s) >= %2$s)',
                  CASE WHEN pgmq_gateway.has_column(relation, 'headers')
                       THEN 'q.headers' ELSE 'NULL' END, max_receives);
END
$$;

-- Moves rows from one table into another, all or none, and returns how many there were; those stay for which a
-- `condition` on `q` does not hold. Raises PGW23 if the destination did not take what the source gave, and PGW96 if a
-- trigger has the rest of the transaction write nothing. A role that one has set is set back.
CREATE FUNCTION pgmq_gateway.move_rows(
    source regclass, destination regclass, columns text, vals text, ids bigint[], queue text,
    reasons jsonb DEFAULT NULL, condition text DEFAULT 'true'
) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    me name := current_user;
    my_role text := current_setting('role');
    my_session name := session_user;
    -- Of other columns the role may see nothing.
    used text := (SELECT string_agg('q.' || c.name, ', ')
                  FROM unnest('{msg_id,read_ct,enqueued_at,last_read_at,vt,message,headers}'::text[]) AS c (name)
                  WHERE c.name = 'msg_id' OR strpos(vals, c.name) > 0);
    gone integer;
    stored integer;
BEGIN
    IF pgmq_gateway.has_rules(source) OR pgmq_gateway.has_rules(destination) THEN
        RETURN cardinality(pgmq_gateway.move_by_rules(
            source, destination, columns, vals, ids, queue, reasons, condition));
    END IF;
    EXECUTE format(
        '/* pgmq_gateway */
         WITH gone AS (DELETE FROM %s q WHERE q.msg_id = ANY ($1) AND %s RETURNING %s),
              stored AS (INSERT INTO %s (%s) SELECT %s FROM gone ORDER BY msg_id RETURNING 1)
         SELECT (SELECT count(*) FROM gone), (SELECT count(*) FROM stored)',
        source, condition, used, destination, columns, vals
    ) INTO gone, stored USING ids, queue, reasons;
    -- Without a function of ours: another role may call none.
    IF current_user <> me THEN
        PERFORM CASE WHEN session_user <> my_session
                     THEN set_config('session_authorization', my_session, true) END,
                set_config('role', my_role, true);
    END IF;
    IF gone <> stored THEN
        RAISE EXCEPTION '% of % rows were stored', stored, gone USING ERRCODE = 'PGW23';
    ELSIF current_setting('transaction_read_only') = 'on' THEN
        RAISE SQLSTATE 'PGW96';
    END IF;
    RETURN stored;
END
$$;

-- Moves messages into the queue `target` or, without one, into the archive, with their history in
-- their headers, and what `reasons` has for their ids: all, or none. Returns how many there were,
-- as move_rows does.
CREATE FUNCTION pgmq_gateway.dead_letter(
    queue text, ids bigint[], target text, reasons jsonb DEFAULT NULL, condition text DEFAULT 'true'
) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    source regclass := pgmq_gateway.queue_table(queue);
    destination regclass := CASE WHEN target IS NOT NULL THEN
        pgmq_gateway.find_queue_table(target) END;
    to_archive boolean := destination IS NULL;
    columns text := 'read_ct, enqueued_at, vt, message';
    vals text;
BEGIN
    IF to_archive THEN
        destination := pgmq_gateway.archive_table(queue);
        columns := 'msg_id, ' || columns;
    END IF;
    IF pgmq_gateway.has_column(source, 'last_read_at')
       AND pgmq_gateway.has_column(destination, 'last_read_at') THEN
        columns := columns || ', last_read_at';
    END IF;
    vals := columns;
    IF NOT to_archive THEN
        IF NOT (pgmq_gateway.has_column(source, 'headers')
                AND pgmq_gateway.has_column(destination, 'headers')) THEN
            -- Without headers there is no telling which deliveries were elsewhere.
            vals := replace(vals, 'read_ct', '0');
        END IF;
        vals := replace(vals, 'vt', 'clock_timestamp()');
    END IF;
    -- A receive has no time to wait for other queues.
    PERFORM pgmq_gateway.require_unlocked(destination);
    IF NOT to_archive AND pgmq_gateway.has_fifo_index(destination) THEN
        PERFORM set_config('lock_timeout', '1ms', true);
        PERFORM pgmq_gateway.lock_send_order(target);
        PERFORM set_config('lock_timeout', '5ms', true);
    END IF;
    IF pgmq_gateway.has_column(source, 'headers')
       AND pgmq_gateway.has_column(destination, 'headers') THEN
        columns := columns || ', headers';
        vals := vals || $headers$,
            CASE jsonb_typeof(headers) WHEN 'object' THEN headers - 'x-dead-letter-reason' ELSE '{}' END
            || jsonb_build_object(
                'x-dead-letter-queue', $2, 'x-dead-letter-msg-id', msg_id,
                'x-dead-letter-read-ct', read_ct, 'x-dead-letter-at',
                to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'))
            || CASE WHEN $3 ->> msg_id::text IS NOT NULL
               THEN jsonb_build_object('x-dead-letter-reason', $3 -> msg_id::text) ELSE '{}' END
        $headers$;
    END IF;
    RETURN pgmq_gateway.move_rows(source, destination, columns, vals, ids, queue, reasons, condition);
END
$$;

-- As dead_letter; false, and nothing is done, where it is not done to all.
CREATE FUNCTION pgmq_gateway.dead_letter_together(queue text, ids bigint[], target text, reasons jsonb)
RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    code text;
    context text;
BEGIN
    IF pgmq_gateway.dead_letter(queue, ids, target, reasons) <> cardinality(ids) THEN
        RAISE SQLSTATE 'PGW23';
    END IF;
    RETURN true;
EXCEPTION WHEN OTHERS OR assert_failure OR query_canceled THEN
    GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, context = PG_EXCEPTION_CONTEXT;
    IF pgmq_gateway.is_told_to_stop(code, context) THEN
        RAISE;
    ELSIF code = '23505' THEN
        PERFORM pgmq_gateway.try_to_advance_sequence(coalesce(target, queue));
    END IF;
    RETURN false;
END
$$;

-- As dead_letter, but one that cannot be moved stays and keeps no other from being moved. `failed` are
-- those that stayed, `failed_code` is why the last of them did. Waits for a lock once. All stay where more
-- deliveries than `max_receives` are allowed by now.
CREATE FUNCTION pgmq_gateway.dead_letter_each(
    queue text, ids bigint[], max_receives integer, target text, OUT moved integer, OUT failed bigint[],
    OUT failed_code text
) LANGUAGE plpgsql AS $$
DECLARE
    id bigint;
    context text;
    patience text := current_setting('lock_timeout');
    rule record := pgmq_gateway.dead_letter_rule(queue, max_receives, target);
    source regclass := pgmq_gateway.queue_table(queue);
    condition text := 'true';
    rows_of_id integer;
BEGIN
    target := rule.target;
    IF pgmq_gateway.repeats_ids(source) THEN
        -- Another message of the same id may be in somebody's hand, or not be delivered yet.
        condition := 'q.vt <= statement_timestamp() AND '
                     || pgmq_gateway.exhausted_condition(source, max_receives::text);
        ids := ARRAY(SELECT DISTINCT i.id FROM unnest(ids) AS i (id) ORDER BY i.id);
    END IF;
    IF coalesce(rule.max_receives > max_receives, true) THEN
        SELECT 0, ids, '55P03' INTO moved, failed, failed_code;
        RETURN;
    END IF;
    failed := '{}';
    BEGIN
        moved := pgmq_gateway.dead_letter(queue, ids, target, condition => condition);
        -- What a policy or a trigger kept.
        IF moved >= cardinality(ids) THEN
            PERFORM pgmq_gateway.check_at_once();
            RETURN;
        END IF;
        RAISE SQLSTATE 'PGW23';
    EXCEPTION WHEN OTHERS OR assert_failure OR query_canceled THEN
        GET STACKED DIAGNOSTICS failed_code = RETURNED_SQLSTATE, context = PG_EXCEPTION_CONTEXT;
        IF pgmq_gateway.is_told_to_stop(failed_code, context) THEN
            RAISE;
        END IF;
    END;
    moved := 0;
    -- Nobody waits for a table that somebody has locked; without an archive there is nothing to try.
    IF failed_code = 'PGW44' OR failed_code = '55P03'
       AND NOT pgmq_gateway.is_unlocked(coalesce(
               CASE WHEN target IS NOT NULL THEN pgmq_gateway.find_queue_table(target) END,
               pgmq_gateway.archive_table(queue))) THEN
        failed := ids;
        RETURN;
    ELSIF failed_code = '23505' THEN
        PERFORM pgmq_gateway.try_to_advance_sequence(coalesce(target, queue));
    END IF;
    PERFORM pgmq_gateway.lose_patience(failed_code);
    failed_code := NULL;
    FOREACH id IN ARRAY ids LOOP
        BEGIN
            rows_of_id := pgmq_gateway.dead_letter(queue, ARRAY[id], target, condition => condition);
            IF rows_of_id >= 1 THEN
                PERFORM pgmq_gateway.check_at_once();
                moved := moved + rows_of_id;
            ELSE
                failed := failed || id;
            END IF;
        EXCEPTION WHEN OTHERS OR assert_failure OR query_canceled THEN
            GET STACKED DIAGNOSTICS failed_code = RETURNED_SQLSTATE, context = PG_EXCEPTION_CONTEXT;
            IF pgmq_gateway.is_told_to_stop(failed_code, context) THEN
                RAISE;
            END IF;
            -- Whatever it is: it is not delivered, and does not keep others from being delivered.
            failed := failed || id;
        END;
        PERFORM pgmq_gateway.lose_patience(failed_code);
    END LOOP;
    PERFORM set_config('lock_timeout', patience, true);
END
$$;

-- As advance_sequence; where that fails, as a right is missing or something is locked, all stays as it was.
CREATE FUNCTION pgmq_gateway.try_to_advance_sequence(queue text)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pgmq_gateway.advance_sequence(queue, NULL);
EXCEPTION WHEN OTHERS THEN
    NULL;
END
$$;

-- Whether something may be set off where a dead letter of a queue goes to, or when it goes.
CREATE FUNCTION pgmq_gateway.has_triggers(queue text, target text)
RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT coalesce(bool_or(c.relhastriggers), false) FROM pg_catalog.pg_class c
    WHERE c.oid IN (pgmq_gateway.queue_table(queue),
                    CASE WHEN target IS NOT NULL THEN pgmq_gateway.find_queue_table(target) END,
                    to_regclass(format('pgmq.%I', pgmq.format_table_name(queue, 'a'))))
$$;

-- Moves those of the next messages away that were delivered often enough, so that what is good
-- stands in front, beginning at `since` (floor.sql). Returns how many there were, how many stayed, and whether one of
-- the next was `is_near` that: null where there is none.
CREATE FUNCTION pgmq_gateway.dead_letter_exhausted(
    queue text, max_messages integer, filter jsonb, by_id boolean, max_receives integer,
    target text, since timestamptz DEFAULT NULL, OUT moved integer, OUT failed integer,
    OUT failed_code text, OUT is_near boolean
) LANGUAGE plpgsql AS $$
DECLARE
    q_table regclass := pgmq_gateway.queue_table(queue);
    exhausted bigint[];
    stayed bigint[] := '{}';
    step record;
    most integer := greatest(max_messages, 10);
    at_once integer;
    until timestamptz := clock_timestamp() + interval '250 ms';
    locate text;
    order_column text := CASE WHEN by_id THEN 'q.msg_id' ELSE 'q.vt' END;
    chosen text := format('q.vt <= statement_timestamp() %s %s',
        CASE WHEN since IS NOT NULL THEN pgmq_gateway.since_condition(since) END,
        CASE WHEN filter IS NOT NULL THEN 'AND q.message @> $3' END);
BEGIN
    moved := 0;
    failed := 0;
    -- Mostly there are none, and that is all there is to find out.
    EXECUTE format(
        '/* pgmq_gateway */ SELECT bool_or((n.read_ct < $2) IS NOT TRUE)
         FROM (SELECT q.read_ct FROM %s q WHERE %s ORDER BY %s LIMIT $1) n', q_table, chosen, order_column
    ) INTO is_near USING most, max_receives, filter;
    IF is_near IS NOT TRUE THEN
        RETURN;
    END IF;
    -- By where they stand, as in receive, unless the role may not see that; and a condition on vt that no index is read
    -- for: PostgreSQL may believe that less is visible than there are ids.
    locate := CASE WHEN by_id OR NOT has_column_privilege(q_table, 'ctid', 'SELECT') THEN 'msg_id' ELSE 'ctid' END;
    -- A trigger may take as long as it likes for each.
    at_once := CASE WHEN pgmq_gateway.has_triggers(queue, target) THEN 1 ELSE most END;
    -- Bounded: whoever comes next goes on.
    FOR round IN 1..20 LOOP
        EXECUTE format(
            '/* pgmq_gateway */ SELECT array_agg(d.msg_id) FROM (
                SELECT q.msg_id FROM %1$s q WHERE q.%5$s = ANY (ARRAY(
                    SELECT q.place FROM (
                        SELECT q.%5$s AS place, q.msg_id, q.read_ct %6$s FROM %1$s q
                        WHERE %2$s ORDER BY %3$s LIMIT $1) q
                    WHERE %4$s AND q.msg_id <> ALL ($4)))
                  AND (q.vt <= statement_timestamp()) IS TRUE AND %4$s LIMIT $5 FOR UPDATE SKIP LOCKED) d',
            q_table, chosen, order_column, pgmq_gateway.exhausted_condition(q_table, '$2'), locate,
            CASE WHEN pgmq_gateway.has_column(q_table, 'headers') THEN ', q.headers' END
        ) INTO exhausted
        USING most + cardinality(stayed), max_receives, filter, stayed, at_once;
        EXIT WHEN exhausted IS NULL;
        step := pgmq_gateway.dead_letter_each(queue, exhausted, max_receives, target);
        moved := moved + step.moved;
        stayed := stayed || step.failed;
        failed_code := coalesce(step.failed_code, failed_code);
        -- Where somebody has locked the table they go to, others would stay, too.
        EXIT WHEN step.failed_code = '55P03' AND step.moved = 0 OR cardinality(stayed) > 200
               OR clock_timestamp() > until;
        at_once := least(at_once * 2, most);
    END LOOP;
    failed := cardinality(stayed);
END
$$;
