-- Tables with rules, which have a statement do more than it says, or something else. PostgreSQL takes none on them in
-- WITH, nor by a cursor.

-- Whether a table has rules; those of its partitions, and of tables that inherit from it, are not asked.
CREATE FUNCTION pgmq_gateway.has_rules(relation regclass)
RETURNS boolean LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = relation AND c.relhasrules);
END
$$;

-- The code of an error in a statement on a table. Where a rule does something else instead, the statement returns
-- nothing, of which PostgreSQL says what it says of one on a table that is gone: it is read as what it says of a rule
-- that does nothing.
CREATE FUNCTION pgmq_gateway.code_with_rules(code text, relation regclass)
RETURNS text LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN CASE WHEN code = '42601' AND pgmq_gateway.has_rules(relation) THEN '0A000' ELSE code END;
END
$$;

-- Deletes messages and returns the ids of those that were there, and for which a `condition` on `q` holds. A role that a
-- trigger has set is set back, here and below: another one may call nothing of ours.
CREATE FUNCTION pgmq_gateway.delete_returning(q_table regclass, ids bigint[], condition text DEFAULT 'true')
RETURNS SETOF bigint LANGUAGE plpgsql AS $$
DECLARE
    me name := current_user;
    my_role text := current_setting('role');
    my_session name := session_user;
BEGIN
    RETURN QUERY EXECUTE format('/* pgmq_gateway */ DELETE FROM %s q WHERE q.msg_id = ANY ($1) AND %s
                                 RETURNING q.msg_id', q_table, condition) USING ids;
    IF current_user <> me THEN
        PERFORM CASE WHEN session_user <> my_session
                     THEN set_config('session_authorization', my_session, true) END,
                set_config('role', my_role, true);
    END IF;
END
$$;

-- Runs the statement of `insert_statement` and returns the ids, in order.
CREATE FUNCTION pgmq_gateway.insert_rows(
    statement text, messages jsonb[], headers jsonb[], delays integer[], visible_at timestamptz[]
) RETURNS SETOF bigint LANGUAGE plpgsql AS $$
DECLARE
    me name := current_user;
    my_role text := current_setting('role');
    my_session name := session_user;
BEGIN
    RETURN QUERY EXECUTE statement USING messages, headers, delays, visible_at;
    IF current_user <> me THEN
        PERFORM CASE WHEN session_user <> my_session
                     THEN set_config('session_authorization', my_session, true) END,
                set_config('role', my_role, true);
    END IF;
END
$$;

-- Moves rows as the callers do, in two statements: `chosen` are locked, stored in the other table and deleted, and
-- returned are the ids of those that were. Raises PGW23 if one did not take what the other gave. `vals` may use $2
-- and $3. Raises PGW96 as move_rows does.
CREATE FUNCTION pgmq_gateway.move_by_rules(
    source regclass, destination regclass, columns text, vals text, chosen bigint[], queue text, reasons jsonb,
    condition text
) RETURNS bigint[] LANGUAGE plpgsql AS $$
DECLARE
    me name := current_user;
    my_role text := current_setting('role');
    my_session name := session_user;
    stored integer;
    gone bigint[];
BEGIN
    EXECUTE format('/* pgmq_gateway */ SELECT array_agg(l.msg_id) FROM (
                        SELECT q.msg_id FROM %s q WHERE q.msg_id = ANY ($1) AND %s
                        ORDER BY q.msg_id %s) l', source, condition,
                   replace(pgmq_gateway.row_lock(source), 'SKIP LOCKED', ''))
    INTO chosen USING chosen;
    EXECUTE format('/* pgmq_gateway */ INSERT INTO %s (%s) SELECT %s FROM %s q WHERE q.msg_id = ANY ($1) AND %s
                    ORDER BY q.msg_id', destination, columns, vals, source, condition)
    USING chosen, queue, reasons;
    GET DIAGNOSTICS stored = ROW_COUNT;
    IF current_user <> me THEN
        PERFORM CASE WHEN session_user <> my_session
                     THEN set_config('session_authorization', my_session, true) END,
                set_config('role', my_role, true);
    END IF;
    gone := ARRAY(SELECT d FROM pgmq_gateway.delete_returning(source, chosen, condition) d);
    IF stored <> cardinality(gone) THEN
        RAISE EXCEPTION '% of % rows were stored', stored, cardinality(gone) USING ERRCODE = 'PGW23';
    ELSIF current_setting('transaction_read_only') = 'on' THEN
        RAISE SQLSTATE 'PGW96';
    END IF;
    RETURN gone;
END
$$;
