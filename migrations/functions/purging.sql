-- Emptying queues, and deleting messages as far as they go.

-- Empties a queue at once, and says how many messages there were; null where that would pass by policies,
-- triggers and rules, the role may not, or somebody is at the table: then the messages are to be deleted.
-- Locked from the beginning: what comes after the counting would go uncounted.
CREATE FUNCTION pgmq_gateway.truncate_queue(queue text)
RETURNS bigint LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '100ms' AS $$
DECLARE
    q_table regclass := pgmq_gateway.queue_table(queue);
    purged bigint;
BEGIN
    IF row_security_active(q_table) OR NOT has_table_privilege(q_table, 'TRUNCATE')
       OR pgmq_gateway.has_rules(q_table)
       OR EXISTS (SELECT FROM pg_catalog.pg_trigger t
                  WHERE t.tgrelid IN (SELECT d FROM pgmq_gateway.with_descendants(q_table) d)
                    -- 8: delete; 32: truncate.
                    AND NOT t.tgisinternal AND t.tgtype & 40 <> 0)
       OR EXISTS (SELECT FROM pg_catalog.pg_constraint c
                  WHERE c.confrelid IN (SELECT d FROM pgmq_gateway.with_descendants(q_table) d)) THEN
        RETURN NULL;
    END IF;
    EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', q_table);
    purged := pgmq.purge_queue(queue);
    PERFORM pgmq_gateway.forget_deduplication(queue, 9223372036854775807);
    RETURN purged;
EXCEPTION WHEN lock_not_available OR disk_full OR feature_not_supported THEN
    -- A table that is emptied at once has new files. A foreign key may have come in this moment.
    RETURN NULL;
END
$$;

-- The last id of a queue, 0 where there is none.
CREATE FUNCTION pgmq_gateway.last_id(queue text)
RETURNS bigint LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms' AS $$
DECLARE
    last bigint;
BEGIN
    EXECUTE format('/* pgmq_gateway */ SELECT max(q.msg_id) FROM %s q', pgmq_gateway.queue_table(queue))
    INTO last;
    RETURN coalesce(last, 0);
END
$$;

-- Deletes the next messages of a queue, up to the id `up_to`, and says how many; `last_id` is where to go
-- on, maybe from where this began, null at the end. What is locked, or kept by a policy or a trigger, stays: `kept_id` is
-- the first that does, and `kept` says why, in the words of settle_alone.
CREATE FUNCTION pgmq_gateway.delete_next(
    queue text, after_msg_id bigint, up_to bigint, max_messages integer,
    OUT deleted bigint, OUT last_id bigint, OUT kept text, OUT kept_id bigint
) LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '100ms' AS $$
DECLARE
    q_table regclass := pgmq_gateway.queue_table(queue);
    ids bigint[];
BEGIN
    PERFORM pgmq_gateway.require_own_session();
    PERFORM pgmq_gateway.require_privilege(q_table, 'DELETE');
    PERFORM pgmq_gateway.check_at_once();
    EXECUTE format('/* pgmq_gateway */ SELECT array_agg(n.msg_id) FROM (
                        SELECT q.msg_id FROM %s q WHERE q.msg_id > $1 AND q.msg_id <= $2
                        ORDER BY q.msg_id LIMIT $3) n', q_table)
    INTO ids USING after_msg_id, up_to, max_messages;
    deleted := (pgmq_gateway.delete_rows(q_table, coalesce(ids, '{}'))).deleted;
    last_id := CASE WHEN cardinality(ids) = max_messages THEN ids[max_messages] END;
    IF deleted < cardinality(ids) THEN
        EXECUTE format('/* pgmq_gateway */ SELECT min(q.msg_id) FROM %s q WHERE q.msg_id = ANY ($1)', q_table)
        INTO kept_id USING ids;
    END IF;
    IF kept_id IS NOT NULL THEN
        kept := (pgmq_gateway.settle_alone(queue, q_table, 'delete', kept_id, NULL, NULL)).outcome;
        IF kept IN ('done', 'missing') THEN
            deleted := deleted + (kept = 'done')::integer;
            -- What had it locked has ended, and with it what had the others.
            last_id := after_msg_id;
            kept := NULL;
            kept_id := NULL;
        END IF;
    END IF;
    -- Where nothing goes, as all is kept, what was sent is not forgotten.
    IF deleted > 0 OR kept IS NULL THEN
        PERFORM pgmq_gateway.forget_deduplication(queue, coalesce(last_id, up_to), ids);
    END IF;
END
$$;

-- Deletes rows of a table by their ids, as far as nobody has them locked. `kept` counts those that a
-- policy, a trigger or a constraint keeps, `kept_code` says with which error one of them does. A `condition` on `q` by
-- which they were chosen is looked at again: somebody may have changed them since.
CREATE FUNCTION pgmq_gateway.delete_rows(
    relation regclass, ids bigint[], condition text DEFAULT 'true',
    OUT deleted bigint, OUT kept bigint, OUT kept_code text
) LANGUAGE plpgsql SET lock_timeout = '20ms' AS $$
DECLARE
    statement text := format('/* pgmq_gateway */ DELETE FROM %s q WHERE q.msg_id = ANY ($1) AND %s',
                             relation, condition);
    free bigint[];
    locked bigint := 0;
    more bigint;
    id bigint;
    code text;
    context text;
    outcome text;
    me name := current_user;
    my_role text := current_setting('role');
    my_session name := session_user;
BEGIN
    PERFORM pgmq_gateway.require_privilege(relation, 'DELETE');
    EXECUTE format(
        '/* pgmq_gateway */ SELECT coalesce(array_agg(f.msg_id), ''{}'') FROM (
             SELECT q.msg_id FROM %s q WHERE q.msg_id = ANY ($1) AND %s %s) f', relation,
        condition, pgmq_gateway.row_lock(relation)
    ) INTO free USING ids;
    BEGIN
        EXECUTE statement USING free;
        GET DIAGNOSTICS more = ROW_COUNT;
        -- A trigger may have changed it for the rest of the transaction.
        IF current_user <> me THEN
            PERFORM CASE WHEN session_user <> my_session
                         THEN set_config('session_authorization', my_session, true) END,
                    set_config('role', my_role, true);
        END IF;
        PERFORM pgmq_gateway.check_at_once();
        deleted := more;
    EXCEPTION WHEN OTHERS OR assert_failure OR query_canceled THEN
        GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, context = PG_EXCEPTION_CONTEXT;
        IF pgmq_gateway.row_outcome(code, context) IS NULL THEN
            RAISE;
        END IF;
    END;
    IF deleted IS NULL THEN
        deleted := 0;
        FOREACH id IN ARRAY free LOOP
            BEGIN
                EXECUTE statement USING ARRAY[id];
                GET DIAGNOSTICS more = ROW_COUNT;
                IF current_user <> me THEN
                    PERFORM CASE WHEN session_user <> my_session
                                 THEN set_config('session_authorization', my_session, true) END,
                            set_config('role', my_role, true);
                END IF;
                PERFORM pgmq_gateway.check_at_once();
                deleted := deleted + more;
            EXCEPTION WHEN OTHERS OR assert_failure OR query_canceled THEN
                GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, context = PG_EXCEPTION_CONTEXT;
                outcome := pgmq_gateway.row_outcome(code, context);
                IF outcome IS NULL THEN
                    RAISE;
                ELSIF outcome = 'locked' THEN
                    locked := locked + 1;
                    -- The next ones may stand there too.
                    PERFORM set_config('lock_timeout', '1ms', true);
                ELSE
                    kept_code := code;
                END IF;
            END;
        END LOOP;
    END IF;
    kept := cardinality(free) - deleted - locked;
END
$$;
