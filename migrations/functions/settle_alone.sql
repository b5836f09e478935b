-- Settling messages one by one, so that each fails alone.

-- Does one thing to one message, in a subtransaction of its own, if it is at the delivery `number` or that is
-- null: `done`, `missing`, `stale`, `locked` by somebody else, `forbidden` (kept by a policy or a trigger),
-- `conflict` with the archive, `no_archive`, `rejected`, `differs` as a table is not as PGMQ makes it, or `failed` for a
-- reason that may pass. Waits for locks as long as its caller does; once it did so in vain, hardly, as the next one may
-- stand there too.
-- `read_stamp`, `uncounted`, `reason` and `target` are as for `settle`.
CREATE FUNCTION pgmq_gateway.settle_alone(
    queue text, q_table regclass, action text, id bigint, number integer, hidden_until timestamptz,
    read_stamp bigint DEFAULT NULL, uncounted boolean DEFAULT false, reason text DEFAULT NULL,
    target text DEFAULT NULL, OUT outcome text, OUT constraint_name text
) LANGUAGE plpgsql AS $$
DECLARE
    -- What ends it asks this too: where policies are in force it is not locked, and may have been delivered since.
    is_so text := format('coalesce(q.read_ct = %L, true) AND coalesce(%s = %L, true)',
                         number, pgmq_gateway.read_stamp_of(q_table), read_stamp);
    fits text := 'q.msg_id = $1 AND ' || is_so;
    -- The table may have an id twice.
    any_fits text := format('/* pgmq_gateway */ SELECT bool_or(%s) FROM %s q WHERE q.msg_id = $1', is_so, q_table);
    me name := current_user;
    my_role text := current_setting('role');
    my_session name := session_user;
    is_there boolean;
    settled bigint;
    code text;
    context text;
BEGIN
    PERFORM pgmq_gateway.check_at_once();
    EXECUTE any_fits INTO is_there USING id;
    IF is_there IS NOT TRUE THEN
        outcome := CASE WHEN is_there IS NULL THEN 'missing' ELSE 'stale' END;
        RETURN;
    END IF;
    IF action = 'archive' THEN
        settled := (pgmq_gateway.move_to_archive(queue, q_table, ARRAY[id], is_so))[1];
    ELSIF action = 'dead_letter' THEN
        IF pgmq_gateway.dead_letter(queue, ARRAY[id], target, jsonb_build_object(id, reason), is_so) >= 1 THEN
            settled := id;
        END IF;
    ELSIF action = 'delete' THEN
        EXECUTE format('/* pgmq_gateway */ DELETE FROM %s q WHERE %s RETURNING q.msg_id', q_table, fits)
        INTO settled USING id;
    ELSE
        EXECUTE format('/* pgmq_gateway */ UPDATE %s q SET vt = $2 %s WHERE %s RETURNING %s', q_table,
                       CASE WHEN uncounted THEN pgmq_gateway.uncount(q_table, '$3') END, fits,
                       pgmq_gateway.id_if_hidden(q_table, '$2'))
        INTO settled USING id, hidden_until, uncounted;
        -- A trigger has given it another id: it would be gone for all who know it.
        IF settled <> id THEN
            RAISE insufficient_privilege;
        END IF;
    END IF;
    -- As in move_rows.
    IF current_user <> me THEN
        PERFORM CASE WHEN session_user <> my_session
                     THEN set_config('session_authorization', my_session, true) END,
                set_config('role', my_role, true);
    END IF;
    -- As in `send_each`.
    IF current_setting('transaction_read_only') = 'on' THEN
        RAISE lock_not_available;
    END IF;
    PERFORM pgmq_gateway.check_at_once();
    outcome := 'done';
    IF settled IS NULL THEN
        EXECUTE any_fits INTO is_there USING id;
        outcome := CASE WHEN is_there IS NULL THEN 'missing' WHEN is_there THEN 'forbidden'
                        ELSE 'stale' END;
    END IF;
EXCEPTION WHEN OTHERS OR assert_failure OR query_canceled THEN
    GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, context = PG_EXCEPTION_CONTEXT,
                            constraint_name = CONSTRAINT_NAME;
    code := pgmq_gateway.code_with_rules(code, q_table);
    outcome := pgmq_gateway.row_outcome(code, context);
    IF outcome IS NULL THEN
        -- What is done to others may not need what is missing; and a sequence is that of another queue.
        outcome := CASE WHEN pgmq_gateway.is_of_shape(code) THEN 'differs'
                        WHEN action = 'dead_letter' AND code = '2200H' THEN 'failed' END;
        IF outcome IS NULL THEN
            RAISE;
        END IF;
    END IF;
    IF outcome = 'conflict' AND action = 'archive' THEN
        -- So that those behind it do not meet ids in the archive, too.
        PERFORM pgmq_gateway.advance_sequence(queue, constraint_name);
    ELSIF outcome = 'conflict' AND action = 'dead_letter' THEN
        PERFORM pgmq_gateway.try_to_advance_sequence(coalesce(target, queue));
    ELSIF outcome = 'locked' THEN
        PERFORM set_config('lock_timeout', '1ms', true);
    END IF;
END
$$;

-- Locks messages for `settle`, in order, each in a subtransaction of its own: `alone` is what can be worked on, `locked`
-- what somebody else has. A policy may fail at one: then its state is the outcome that this has. Where policies are in
-- force, what is not to be locked may still be deleted.
-- `deliveries` counts those of a message as this queue does.
CREATE FUNCTION pgmq_gateway.lock_each(q_table regclass, ids bigint[], deliveries text, repeats_ids boolean)
RETURNS TABLE (msg_id bigint, read_ct integer, stamp bigint, tries integer, state text) LANGUAGE plpgsql AS $$
DECLARE
    look text := format('/* pgmq_gateway */ SELECT q.msg_id::bigint, q.read_ct::integer, %s, (%s)::integer, $2 FROM %s q
                         WHERE q.msg_id = $1',
                        pgmq_gateway.read_stamp_of(q_table), deliveries, q_table);
    held text := CASE WHEN row_security_active(q_table) THEN 'alone' ELSE 'locked' END;
    id bigint;
    context text;
BEGIN
    FOR id IN SELECT DISTINCT i.id FROM unnest(ids) AS i (id) WHERE i.id IS NOT NULL ORDER BY i.id LOOP
        BEGIN
            RETURN QUERY EXECUTE look || ' FOR UPDATE SKIP LOCKED' USING id, 'alone'::text;
            IF NOT FOUND OR repeats_ids THEN
                RETURN QUERY EXECUTE look USING id, held;
            END IF;
        EXCEPTION WHEN OTHERS OR assert_failure OR query_canceled THEN
            GET STACKED DIAGNOSTICS context = PG_EXCEPTION_CONTEXT;
            state := pgmq_gateway.row_outcome(SQLSTATE, context);
            -- A right that the statement itself lacks is one on the whole table.
            IF state IS NULL OR SQLSTATE = '42501'
                                AND strpos(left(context, strpos(context, '/* pgmq_gateway */')), E'\n') = 0 THEN
                RAISE;
            END IF;
            msg_id := id;
            RETURN NEXT;
        END;
    END LOOP;
END
$$;
