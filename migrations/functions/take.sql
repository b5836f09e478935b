-- Messages that are given out without a lease: popped, or looked at by id.

-- What a message takes on its way to the gateway, in bytes, as an expression on `q`. One that cannot be sent
-- fails there as it would on that way.
CREATE FUNCTION pgmq_gateway.sent_size(relation regclass)
RETURNS text LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN 'coalesce(octet_length(convert_to(q.message::text, ''UTF8'')), 0)::bigint' ||
        CASE WHEN pgmq_gateway.has_column(relation, 'headers')
             THEN ' + coalesce(octet_length(convert_to(q.headers::text, ''UTF8'')), 0)' ELSE '' END;
END
$$;

-- Whether an error of a statement of ours says that a message cannot be sent.
CREATE FUNCTION pgmq_gateway.is_unreadable(code text, context text)
RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
    SELECT code IN ('54000', '22021', '22P05')
       AND strpos(left(context, strpos(context, '/* pgmq_gateway */')), E'\n') = 0
$$;

-- Reads messages and deletes them at once, as many as have at most `max_bytes` together, and at least one. `more`
-- says that there was no room for others. Raises PGW54 if one cannot be sent. Otherwise as `receive`.
CREATE FUNCTION pgmq_gateway.pop(
    queue text, max_messages integer, by_id boolean, max_receives integer, dead_letter_queue text,
    one_by_one boolean, max_bytes bigint, since timestamptz DEFAULT NULL
) RETURNS TABLE (
    msg_id bigint, read_ct integer, enqueued_at timestamptz, last_read_at timestamptz,
    vt timestamptz, message jsonb, headers jsonb, queue_id bigint, kept integer, kept_code text,
    more boolean
) LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms' AS $$
DECLARE
    q_table regclass := pgmq_gateway.queue_table(queue);
    this_queue bigint;
    locate text;
    repeats_ids boolean := false;
    size text;
    delete_statement text;
    lock_statement text;
    candidates text;
    candidate bigint;
    is_ours boolean;
    context text;
    found_count integer := 0;
    found_bytes bigint := 0;
    bytes bigint;
    me name := current_user;
    my_role text := current_setting('role');
    my_session name := session_user;
BEGIN
    PERFORM pgmq_gateway.require_own_session();
    this_queue := pgmq_gateway.queue_id(queue);
    by_id := by_id OR (SELECT c.relkind = 'p' OR c.relhassubclass
                       FROM pg_catalog.pg_class c WHERE c.oid = q_table);
    since := CASE WHEN NOT by_id THEN since END;
    IF one_by_one THEN
        PERFORM set_config('lock_timeout', '5ms', true);
        PERFORM pgmq_gateway.require_unlocked(q_table);
        PERFORM pgmq_gateway.check_at_once();
    END IF;
    one_by_one := one_by_one OR row_security_active(q_table)
               OR pgmq_gateway.has_row_trigger(q_table, 8);
    locate := CASE WHEN by_id OR one_by_one THEN 'msg_id' ELSE 'ctid' END;
    IF by_id OR one_by_one THEN
        repeats_ids := pgmq_gateway.repeats_ids(q_table);
        one_by_one := one_by_one OR repeats_ids AND pgmq_gateway.has_rules(q_table);
    END IF;
    kept := 0;
    IF max_receives IS NOT NULL THEN
        SELECT d.failed, d.failed_code INTO kept, kept_code
        FROM pgmq_gateway.dead_letter_exhausted(queue, max_messages, NULL, by_id, max_receives,
                                                dead_letter_queue, since) d;
    END IF;
    size := pgmq_gateway.sent_size(q_table);
    -- What lacks something that every message has could not be read on arrival, and would be lost.
    candidates := format(
        'FROM %s q WHERE %s AND (q.read_ct, q.enqueued_at) IS NOT NULL ORDER BY q.%s',
        q_table, pgmq_gateway.deliverable(q_table, NULL, max_receives, since),
        CASE WHEN by_id THEN 'msg_id' ELSE 'vt' END);
    IF NOT one_by_one THEN
        delete_statement := format(
            '/* pgmq_gateway */ WITH bounded AS MATERIALIZED (
                 SELECT c.*, c.n = 1 OR c.total <= $3 AS fits
                 FROM (SELECT c.*, row_number() OVER () AS n,
                              sum(c.bytes) OVER (ROWS UNBOUNDED PRECEDING) AS total
                       FROM (SELECT %1$s, %2$s AS bytes %3$s LIMIT $2
                             FOR UPDATE SKIP LOCKED) c) c)
             DELETE FROM %4$s m %6$s
             RETURNING %5$s, $1, NULL::integer, NULL::text,
                       (SELECT NOT bool_and(b.fits) FROM bounded b)',
            CASE WHEN repeats_ids THEN 'q.msg_id AS id, q.tableoid AS relation, q.ctid AS place'
                 ELSE format('q.%s AS place', locate) END,
            size, candidates, q_table, pgmq_gateway.columns(q_table),
            CASE WHEN repeats_ids THEN 'USING bounded c WHERE c.fits AND m.msg_id = c.id
                                           AND m.tableoid = c.relation AND m.ctid = c.place'
                 ELSE format('WHERE m.%s = ANY (ARRAY(SELECT b.place FROM bounded b WHERE b.fits))', locate) END);
        BEGIN
            RETURN QUERY EXECUTE delete_statement
            USING this_queue, max_messages, max_bytes, max_receives;
            PERFORM pgmq_gateway.check_at_once();
        EXCEPTION WHEN program_limit_exceeded OR character_not_in_repertoire
                       OR untranslatable_character THEN
            GET STACKED DIAGNOSTICS context = PG_EXCEPTION_CONTEXT;
            IF pgmq_gateway.is_unreadable(SQLSTATE, context) THEN
                RAISE SQLSTATE 'PGW54';
            END IF;
            RAISE;
        END;
    ELSE
        delete_statement := format(
            '/* pgmq_gateway */ DELETE FROM %s m WHERE m.msg_id = $2 %s RETURNING %s, $1, %s',
            q_table,
            CASE WHEN repeats_ids THEN 'AND ' || pgmq_gateway.is_first_of(format(
                'FROM %s q WHERE q.msg_id = $2 AND %s', q_table,
                replace(pgmq_gateway.deliverable(q_table, NULL, max_receives), '$4', '$3'))) END,
            pgmq_gateway.columns(q_table), replace(size, 'q.', 'm.'));
        PERFORM pgmq_gateway.require_right_to_pop(q_table);
        lock_statement := pgmq_gateway.lock_statement(q_table, NULL, max_receives);
        FOR candidate IN EXECUTE '/* pgmq_gateway */ SELECT q.msg_id ' || replace(candidates, '$4', '$1')
            USING max_receives
        LOOP
            EXIT WHEN found_count >= max_messages OR kept >= 1000;
            msg_id := NULL;
            BEGIN
                EXECUTE lock_statement INTO is_ours USING candidate, NULL::jsonb, max_receives;
                CONTINUE WHEN is_ours IS NULL;
                EXECUTE delete_statement
                INTO msg_id, read_ct, enqueued_at, last_read_at, vt, message, headers, queue_id, bytes
                USING this_queue, candidate, max_receives;
                -- A trigger may have changed it for the rest of the transaction.
                IF current_user <> me THEN
                    PERFORM CASE WHEN session_user <> my_session
                                 THEN set_config('session_authorization', my_session, true) END,
                            set_config('role', my_role, true);
                END IF;
                PERFORM pgmq_gateway.check_at_once();
                IF found_count > 0 AND found_bytes + bytes > max_bytes THEN
                    RAISE SQLSTATE 'PGW15';
                END IF;
            EXCEPTION WHEN OTHERS OR assert_failure OR query_canceled THEN
                IF SQLSTATE = 'PGW15' THEN
                    more := true;
                    EXIT;
                END IF;
                GET STACKED DIAGNOSTICS kept_code = RETURNED_SQLSTATE, context = PG_EXCEPTION_CONTEXT;
                kept_code := pgmq_gateway.code_with_rules(kept_code, q_table);
                IF pgmq_gateway.is_unreadable(kept_code, context) THEN
                    RAISE SQLSTATE 'PGW54';
                END IF;
                IF pgmq_gateway.row_outcome(kept_code, context) IS NULL THEN
                    RAISE;
                END IF;
                PERFORM pgmq_gateway.lose_patience(kept_code);
                msg_id := NULL;
            END;
            IF msg_id IS NULL THEN
                kept := kept + 1;
            ELSE
                found_count := found_count + 1;
                found_bytes := found_bytes + bytes;
                RETURN NEXT;
            END IF;
        END LOOP;
    END IF;
    IF kept > 0 OR more THEN
        msg_id := NULL;
        message := NULL;
        headers := NULL;
        RETURN NEXT;
    END IF;
    PERFORM pgmq_gateway.answer_in_utf8();
END
$$;

-- Those of the messages with these ids that are there, in order of msg_id, leasing nothing.
CREATE FUNCTION pgmq_gateway.look(queue text, ids bigint[])
RETURNS TABLE (
    msg_id bigint, read_ct integer, enqueued_at timestamptz, last_read_at timestamptz,
    vt timestamptz, message jsonb, headers jsonb, queue_id bigint
) LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms' AS $$
DECLARE
    q_table regclass := pgmq_gateway.queue_table(queue);
BEGIN
    PERFORM pgmq_gateway.require_own_session();
    RETURN QUERY EXECUTE format(
        '/* pgmq_gateway */ SELECT %s, $2 FROM %s m WHERE m.msg_id = ANY ($1) ORDER BY m.msg_id',
        pgmq_gateway.columns(q_table), q_table
    ) USING ids, pgmq_gateway.queue_id(queue);
END
$$;
