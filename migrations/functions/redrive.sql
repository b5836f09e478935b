-- Dead letters on their way back, and archived messages that begin anew.

-- Moves the next messages of a dead-letter queue that nobody has in hand to the queue that each came
-- from, or all to `target`. Those stay whose queue is not known, is gone, or is not among the
-- `allowed_queues` (a regular expression for their names; null is all), and those that their table does
-- not give or the other does not take: of these `failed` says how many, `failed_code` and
-- `failed_constraint` why the first did, and `failed_queue` where it was to go. `unreturnable` says why one can go
-- nowhere, if there is one: its queue is `unknown`, `forbidden` (whether it is there or not) or `gone`. `last_id` is
-- where to go on, null when there are no more: at most `max_rows` are looked at. What becomes a dead letter later than
-- the first step, as it was moved by it maybe, is behind `up_to`. Raises PGW40 where the target is gone.
CREATE FUNCTION pgmq_gateway.redrive(
    queue text, target text, after_msg_id bigint, max_messages integer, max_rows integer, allowed_queues text,
    INOUT up_to bigint, OUT moved integer, OUT last_id bigint, OUT failed integer, OUT failed_code text,
    OUT failed_constraint text, OUT failed_queue text, OUT unreturnable text
) LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '100ms' AS $$
DECLARE
    source regclass := pgmq_gateway.queue_table(queue);
    origin text := '$3';
    -- What a header says is the name of a queue only if there is one of that name. What cannot go anywhere does not
    -- count among the messages of a step.
    is_known text := '$3 <> $4';
    looked_at bigint[] := '{}';
    bound bigint;
    batch record;
    step record;
    repeats_ids boolean := pgmq_gateway.repeats_ids(source);
BEGIN
    PERFORM pgmq_gateway.require_own_session();
    moved := 0;
    failed := 0;
    PERFORM pgmq_gateway.check_at_once();
    IF target IS NULL AND NOT pgmq_gateway.has_column(source, 'headers') THEN
        PERFORM pgmq_gateway.need_headers('a redrive without `to` needs');
    ELSIF target IS NOT NULL AND NOT pgmq_gateway.is_served(target) THEN
        RAISE EXCEPTION '%', target USING ERRCODE = 'PGW40', DETAIL = jsonb_build_object('operation', 0);
    ELSIF target IS NULL THEN
        origin := 'm.headers ->> ''x-dead-letter-queue''';
        is_known := format('EXISTS (SELECT FROM pgmq.meta k WHERE k.queue_name = %1$s AND k.queue_name <> $4
                                    AND pgmq_gateway.is_name(k.queue_name)
                                    AND ($5 IS NULL OR k.queue_name ~ $5))', origin);
    END IF;
    IF up_to IS NULL THEN
        EXECUTE format('/* pgmq_gateway */ SELECT coalesce(max(m.msg_id), 0) FROM %s m', source) INTO up_to;
    END IF;
    bound := pgmq_gateway.step_bound(source, after_msg_id, up_to, max_rows);
    FOR batch IN EXECUTE format(
        '/* pgmq_gateway */ SELECT c.origin, array_agg(c.msg_id) AS ids, %s AS places FROM (%s) c
         GROUP BY c.origin ORDER BY c.origin',
        CASE WHEN repeats_ids THEN 'array_agg(c.place)' ELSE 'NULL::text[]' END,
        pgmq_gateway.rows_of_step(repeats_ids, origin || ' AS origin, m.msg_id', format(
            '%s m WHERE m.msg_id > $1 AND m.msg_id <= $6 AND m.vt <= statement_timestamp() AND %s', source, is_known),
            pgmq_gateway.row_lock(source))
    ) USING after_msg_id, max_messages, target, queue, allowed_queues, coalesce(bound, up_to) LOOP
        looked_at := looked_at || batch.ids;
        IF pgmq_gateway.find_queue_table(batch.origin) IS NOT NULL THEN
            step := pgmq_gateway.requeue_each(
                source, batch.origin, batch.ids,
                'q.vt <= statement_timestamp() AND ' || pgmq_gateway.stands_at(batch.places));
            moved := moved + step.moved;
            failed := failed + step.failed;
            IF failed_code IS NULL THEN
                failed_queue := pgmq_gateway.as_text(batch.origin);
            END IF;
            failed_code := coalesce(failed_code, step.failed_code);
            failed_constraint := coalesce(failed_constraint, step.failed_constraint);
        ELSE
            unreturnable := 'gone';
        END IF;
    END LOOP;
    last_id := CASE WHEN repeats_ids THEN coalesce(pgmq_gateway.end_of_step(looked_at, moved), bound)
                    WHEN cardinality(looked_at) = max_messages
                    THEN (SELECT max(id) FROM unnest(looked_at) AS l (id)) ELSE bound END;
    IF target IS NULL AND unreturnable IS NULL THEN
        -- Behind the others, as there are few left by now.
        EXECUTE format(
            '/* pgmq_gateway */ SELECT CASE WHEN (%1$s) IS NULL OR (%1$s) = $4 THEN ''unknown''
                                            WHEN (%1$s) !~ $5 THEN ''forbidden'' ELSE ''gone'' END
             FROM %2$s m WHERE m.msg_id > $1 AND m.msg_id <= $6 AND m.vt <= statement_timestamp()
               AND (%3$s) IS NOT TRUE ORDER BY m.msg_id LIMIT 1', origin, source, is_known
        ) INTO unreturnable USING after_msg_id, max_messages, target, queue, allowed_queues, coalesce(last_id, up_to);
    END IF;
END
$$;

-- Moves messages from a table into a queue, as new ones: without the deliveries they had, and without
-- what dead-lettering wrote into their headers. All, or none; those stay for which a `condition` on `q` does not hold.
-- Where the queue is gone by now, that is said of it, and not of the one that they come from.
CREATE FUNCTION pgmq_gateway.requeue(source regclass, target text, ids bigint[], condition text DEFAULT 'true')
RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    destination regclass := pgmq_gateway.find_queue_table(target);
    has_headers boolean;
BEGIN
    IF destination IS NULL THEN
        RAISE EXCEPTION '%', target
            USING ERRCODE = 'PGW40', DETAIL = jsonb_build_object('operation', 0);
    END IF;
    has_headers := pgmq_gateway.has_column(source, 'headers')
               AND pgmq_gateway.has_column(destination, 'headers');
    PERFORM pgmq_gateway.require_unlocked(destination);
    IF pgmq_gateway.has_fifo_index(destination) THEN
        PERFORM pgmq_gateway.lock_send_order(target);
    END IF;
    RETURN pgmq_gateway.move_rows(
        source, destination, 'vt, message' || CASE WHEN has_headers THEN ', headers' ELSE '' END,
        'clock_timestamp(), message'
        || CASE WHEN has_headers THEN ', pgmq_gateway.without_dead_letter_headers(headers)' ELSE '' END,
        ids, NULL, condition => condition);
END
$$;

-- As requeue, but one that cannot be moved stays and keeps no other from being moved: `failed` says how
-- many did, `failed_code` and `failed_constraint` why the last of them did. Those for other queues may fare better
-- than where the `target` is what keeps all of them: its table is altered (of which `failed_constraint` says what), has
-- no ids left, or may not be written by the role (PGW33). Where it is the `source` that keeps it, that is PGW26.
CREATE FUNCTION pgmq_gateway.requeue_each(
    source regclass, target text, ids bigint[], condition text DEFAULT 'true',
    OUT moved integer, OUT failed integer, OUT failed_code text, OUT failed_constraint text
) LANGUAGE plpgsql AS $$
DECLARE
    id bigint;
    rows_of_id integer;
    is_there boolean;
    is_of_target boolean := false;
    last_failed bigint;
    missing text;
    context text;
BEGIN
    failed := 0;
    BEGIN
        moved := pgmq_gateway.requeue(source, target, ids, condition);
        IF moved >= cardinality(ids) THEN
            PERFORM pgmq_gateway.check_at_once();
            RETURN;
        END IF;
        RAISE SQLSTATE 'PGW23';
    EXCEPTION WHEN OTHERS OR assert_failure OR query_canceled THEN
        GET STACKED DIAGNOSTICS failed_code = RETURNED_SQLSTATE, context = PG_EXCEPTION_CONTEXT;
        failed_code := pgmq_gateway.code_with_rules(failed_code, source);
        IF failed_code = '42501'
           AND NOT has_any_column_privilege(pgmq_gateway.queue_table(target), 'INSERT') THEN
            failed_code := 'PGW33';
            is_of_target := true;
        ELSIF pgmq_gateway.row_outcome(failed_code, context) IS NULL THEN
            IF pgmq_gateway.is_of_shape(failed_code) THEN
                failed_constraint := pgmq_gateway.differing_column(target);
            END IF;
            is_of_target := failed_code = '2200H' OR failed_constraint IS NOT NULL;
            IF NOT is_of_target THEN
                RAISE;
            END IF;
        END IF;
    END;
    moved := 0;
    IF is_of_target
       OR failed_code = '55P03' AND NOT pgmq_gateway.is_unlocked(pgmq_gateway.queue_table(target)) THEN
        failed := cardinality(ids);
        RETURN;
    ELSIF failed_code = '23505' THEN
        PERFORM pgmq_gateway.try_to_advance_sequence(target);
    END IF;
    PERFORM pgmq_gateway.lose_patience(failed_code);
    failed_code := NULL;
    FOREACH id IN ARRAY ARRAY(SELECT DISTINCT i.id FROM unnest(ids) AS i (id) ORDER BY i.id) LOOP
        BEGIN
            rows_of_id := pgmq_gateway.requeue(source, target, ARRAY[id], condition);
            IF rows_of_id >= 1 THEN
                PERFORM pgmq_gateway.check_at_once();
                moved := moved + rows_of_id;
                CONTINUE;
            END IF;
            EXECUTE format('/* pgmq_gateway */ SELECT true FROM %s q WHERE q.msg_id = $1 AND %s',
                           source, condition)
            INTO is_there USING id;
            -- Who was quicker has it; else a policy or a trigger has kept it.
            CONTINUE WHEN is_there IS NULL;
            RAISE insufficient_privilege;
        EXCEPTION WHEN OTHERS OR assert_failure OR query_canceled THEN
            GET STACKED DIAGNOSTICS failed_code = RETURNED_SQLSTATE, context = PG_EXCEPTION_CONTEXT,
                                    failed_constraint = CONSTRAINT_NAME;
            failed_code := pgmq_gateway.code_with_rules(failed_code, source);
            missing := pgmq_gateway.missing_part(
                pgmq_gateway.find_queue_table(target), failed_code, context, failed_constraint);
            IF missing IS NOT NULL THEN
                failed_code := 'PGW43';
                failed_constraint := missing;
            ELSIF pgmq_gateway.row_outcome(failed_code, context) IS NULL THEN
                RAISE;
            END IF;
            failed := failed + cardinality(array_positions(ids, id));
            last_failed := id;
            PERFORM pgmq_gateway.lose_patience(failed_code);
        END;
    END LOOP;
    IF failed_code NOT IN ('PGW43', '55P03') AND pgmq_gateway.is_kept(source, last_failed, condition) THEN
        failed_code := 'PGW26';
        failed_constraint := NULL;
    END IF;
END
$$;

-- Whether a table keeps a message that is to be deleted, whatever is to become of it: that is tried, and undone. What
-- somebody else has locked says nothing of it, nor does what may pass.
CREATE FUNCTION pgmq_gateway.is_kept(source regclass, id bigint, condition text)
RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    gone integer;
    context text;
BEGIN
    EXECUTE format('/* pgmq_gateway */ DELETE FROM %s q WHERE q.msg_id = $1 AND %s', source, condition) USING id;
    GET DIAGNOSTICS gone = ROW_COUNT;
    PERFORM pgmq_gateway.check_at_once();
    RAISE SQLSTATE 'PGW98';
EXCEPTION WHEN OTHERS OR assert_failure OR query_canceled THEN
    GET STACKED DIAGNOSTICS context = PG_EXCEPTION_CONTEXT;
    IF SQLSTATE = 'PGW98' THEN
        RETURN gone = 0;
    ELSIF pgmq_gateway.is_told_to_stop(SQLSTATE, context) THEN
        RAISE;
    END IF;
    RETURN coalesce(pgmq_gateway.row_outcome(SQLSTATE, context) NOT IN ('locked', 'failed'), false);
END
$$;

-- The headers of a message that begins anew.
CREATE FUNCTION pgmq_gateway.without_dead_letter_headers(headers jsonb)
RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE
        WHEN jsonb_typeof(headers) IS DISTINCT FROM 'object'
          OR NOT headers ?| ARRAY['x-dead-letter-queue', 'x-dead-letter-read-ct']
        THEN headers
        ELSE nullif(headers - ARRAY['x-dead-letter-queue', 'x-dead-letter-msg-id',
                                    'x-dead-letter-read-ct', 'x-dead-letter-at',
                                    'x-dead-letter-reason'], '{}')
    END
$$;
