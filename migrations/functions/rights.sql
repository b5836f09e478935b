-- Rights of the role on the tables of queues. Where one is missing, PostgreSQL says of every row what it says of one
-- that a policy refuses: so they are asked for by themselves where rows are tried one by one. Those on the columns that
-- a statement uses are enough.

-- Whether the role has a right on all of these columns, as far as a table has them.
CREATE FUNCTION pgmq_gateway.has_privilege_on(relation regclass, privilege text, names text[])
RETURNS boolean LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN has_table_privilege(relation, privilege) OR NOT EXISTS (
        SELECT FROM pg_catalog.pg_attribute a
        WHERE a.attrelid = relation AND a.attname = ANY (names) AND NOT a.attisdropped
          AND NOT has_column_privilege(relation, a.attnum, privilege));
END
$$;

-- Raises PGW33 where it has not.
CREATE FUNCTION pgmq_gateway.require_privilege_on(relation regclass, privilege text, names text[])
RETURNS void LANGUAGE plpgsql STABLE AS $$
BEGIN
    IF NOT pgmq_gateway.has_privilege_on(relation, privilege, names) THEN
        RAISE EXCEPTION '% on %', privilege, relation USING ERRCODE = 'PGW33';
    END IF;
END
$$;

-- The same for a right that there is on whole tables alone.
CREATE FUNCTION pgmq_gateway.require_privilege(relation regclass, privilege text)
RETURNS void LANGUAGE plpgsql STABLE AS $$
BEGIN
    IF NOT has_table_privilege(relation, privilege) THEN
        RAISE EXCEPTION '% on %', privilege, relation USING ERRCODE = 'PGW33';
    END IF;
END
$$;

-- The same for what it takes to store a message without headers, and to be told its id.
CREATE FUNCTION pgmq_gateway.require_right_to_send(relation regclass)
RETURNS void LANGUAGE plpgsql STABLE AS $$
BEGIN
    PERFORM pgmq_gateway.require_privilege_on(relation, 'INSERT', '{vt,message}');
    PERFORM pgmq_gateway.require_privilege_on(relation, 'SELECT', '{msg_id}');
END
$$;

-- The same for what it takes to give messages out.
CREATE FUNCTION pgmq_gateway.require_right_to_read(relation regclass)
RETURNS void LANGUAGE plpgsql STABLE AS $$
BEGIN
    PERFORM pgmq_gateway.require_privilege_on(
        relation, 'SELECT', '{msg_id,read_ct,enqueued_at,last_read_at,vt,message,headers}');
END
$$;

-- The same for what it takes to lease messages.
CREATE FUNCTION pgmq_gateway.require_right_to_lease(relation regclass)
RETURNS void LANGUAGE plpgsql STABLE AS $$
BEGIN
    PERFORM pgmq_gateway.require_privilege_on(relation, 'UPDATE', '{vt,read_ct,last_read_at}');
    PERFORM pgmq_gateway.require_right_to_read(relation);
END
$$;

-- The same for what it takes to pop messages.
CREATE FUNCTION pgmq_gateway.require_right_to_pop(relation regclass)
RETURNS void LANGUAGE plpgsql STABLE AS $$
BEGIN
    PERFORM pgmq_gateway.require_privilege(relation, 'DELETE');
    -- To lock them takes it for any column.
    IF NOT has_any_column_privilege(relation, 'UPDATE') THEN
        RAISE EXCEPTION 'UPDATE on %', relation USING ERRCODE = 'PGW33';
    END IF;
    PERFORM pgmq_gateway.require_right_to_read(relation);
END
$$;

-- The same for what it takes to move messages out of a queue's table into the archive.
CREATE FUNCTION pgmq_gateway.require_right_to_archive(relation regclass, archive regclass)
RETURNS void LANGUAGE plpgsql STABLE AS $$
BEGIN
    IF NOT has_any_column_privilege(archive, 'INSERT') THEN
        RAISE EXCEPTION 'INSERT on %', archive USING ERRCODE = 'PGW33';
    END IF;
    PERFORM pgmq_gateway.require_privilege_on(relation, 'SELECT', '{msg_id,read_ct,enqueued_at,vt,message}');
END
$$;
