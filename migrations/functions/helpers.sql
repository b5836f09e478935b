-- What the other functions stand on: tables of queues, which queue it is, and what older PGMQs lack.
--
-- Functions that the gateway calls have the search path pinned, and those that change queues wait for a
-- lock only shortly. Errors of class PGW are for the gateway: 01 a missing feature, 04 a missing
-- message, 09 a stale receipt, 13 a message that is too large, 14 a publication that is, 22 a row that its table refused, 23 a row
-- that was not stored, 33 a right that is missing, 40 a missing queue, 41 a bad routing key, 44 a
-- missing archive, 55 a locked message. Details are JSON.

-- Whether a relation can be a queue's or an archive's: a table that is no part of another one.
CREATE FUNCTION pgmq_gateway.is_whole_table(relation regclass)
RETURNS boolean LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN EXISTS (SELECT FROM pg_catalog.pg_class c
                   WHERE c.oid = relation AND c.relkind IN ('r', 'p') AND NOT c.relispartition);
END
$$;

-- The table of a queue, null if there is none.
CREATE FUNCTION pgmq_gateway.find_queue_table(queue text)
RETURNS regclass LANGUAGE plpgsql STABLE AS $$
DECLARE
    relation regclass := to_regclass(format('pgmq.%I', pgmq.format_table_name(queue, 'q')));
BEGIN
    RETURN CASE WHEN pgmq_gateway.is_whole_table(relation) THEN relation END;
END
$$;

-- The table of a queue. Raises PGW40 if there is none.
CREATE FUNCTION pgmq_gateway.queue_table(queue text)
RETURNS regclass LANGUAGE plpgsql STABLE AS $$
DECLARE
    relation regclass := to_regclass(format('pgmq.%I', pgmq.format_table_name(queue, 'q')));
BEGIN
    -- What is_whole_table says, asked without a call, as every statement comes by.
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = relation
                   AND c.relkind IN ('r', 'p') AND NOT c.relispartition) THEN
        RAISE EXCEPTION '%', queue USING ERRCODE = 'PGW40';
    END IF;
    RETURN relation;
END
$$;

-- The archive of a queue. Raises PGW40 without the queue, PGW44 if only the archive is missing.
CREATE FUNCTION pgmq_gateway.archive_table(queue text)
RETURNS regclass LANGUAGE plpgsql STABLE AS $$
DECLARE
    relation regclass := to_regclass(format('pgmq.%I', pgmq.format_table_name(queue, 'a')));
BEGIN
    IF NOT pgmq_gateway.is_whole_table(relation) THEN
        PERFORM pgmq_gateway.queue_table(queue);
        RAISE EXCEPTION '%', queue USING ERRCODE = 'PGW44';
    END IF;
    RETURN relation;
END
$$;

-- The name of a queue that has a table, for functions of PGMQ's, which make a table's name of any.
CREATE FUNCTION pgmq_gateway.queue_named(queue text)
RETURNS text LANGUAGE plpgsql STABLE AS $$
BEGIN
    PERFORM pgmq_gateway.queue_table(queue);
    RETURN queue;
END
$$;

-- Which database this is. A copy of it made by dump and restore is another one.
CREATE FUNCTION pgmq_gateway.database_stamp()
RETURNS text LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN format('%s/%s', (SELECT c.system_identifier FROM pg_catalog.pg_control_system() c),
                  (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = current_database()));
EXCEPTION WHEN insufficient_privilege THEN
    RETURN format('?/%s', (SELECT d.oid FROM pg_catalog.pg_database d
                           WHERE d.datname = current_database()));
END
$$;

-- What tells a queue from an earlier or later one of the same name: the moment when it was made, in
-- microseconds since 1970, as the database had it in which the queue was first seen. 0 for a table
-- that PGMQ does not list.
CREATE FUNCTION pgmq_gateway.queue_id(queue text)
RETURNS bigint LANGUAGE plpgsql STABLE AS $$
DECLARE
    made timestamptz;
BEGIN
    SELECT coalesce(s.queue_created_at, m.created_at) INTO made
    FROM pgmq.meta m LEFT JOIN pgmq_gateway.queue_settings s
      ON s.queue_name = m.queue_name
     AND (s.bound_created_at = m.created_at
          OR s.database_stamp IS DISTINCT FROM pgmq_gateway.database_stamp())
    WHERE m.queue_name = queue;
    IF made IS NULL OR NOT isfinite(made) THEN
        RETURN 0;
    END IF;
    RETURN (extract(epoch FROM made) * 1000000)::bigint;
END
$$;

-- Whether a table has a column: those of older PGMQs lack some. One that was dropped a moment ago has
-- none, which is not the mark of an old PGMQ.
CREATE FUNCTION pgmq_gateway.has_column(relation regclass, name text)
RETURNS boolean LANGUAGE plpgsql STABLE AS $$
BEGIN
    IF EXISTS (SELECT FROM pg_catalog.pg_attribute a
               WHERE a.attrelid = relation AND a.attname = name AND NOT a.attisdropped) THEN
        RETURN true;
    END IF;
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = relation) THEN
        RAISE undefined_table USING MESSAGE = format('relation %s is gone', relation::oid);
    END IF;
    RETURN false;
END
$$;

-- A message's columns in the table `m`, in the order in which all functions return them. Tables of
-- older PGMQs lack some: they came with 1.5 (headers) and 1.10 (last_read_at).
CREATE FUNCTION pgmq_gateway.columns(relation regclass)
RETURNS text LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN format('m.msg_id, m.read_ct, m.enqueued_at, %s, m.vt, m.message, %s',
        CASE WHEN pgmq_gateway.has_column(relation, 'last_read_at')
             THEN 'm.last_read_at' ELSE 'NULL::timestamptz' END,
        CASE WHEN pgmq_gateway.has_column(relation, 'headers')
             THEN 'm.headers' ELSE 'NULL::jsonb' END);
END
$$;

-- Refuses headers where there is no place for them.
CREATE FUNCTION pgmq_gateway.need_headers()
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'headers need PGMQ 1.5.0 or later' USING ERRCODE = 'PGW01';
END
$$;

-- Whoever makes, changes and drops a queue takes turns; the lock is PGMQ's own.
CREATE FUNCTION pgmq_gateway.lock_queue(queue text)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('pgmq.queue_' || queue));
END
$$;

-- Fails at once (55P03) where somebody has locked the whole table of a queue.
CREATE FUNCTION pgmq_gateway.require_unlocked(relation regclass)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('LOCK TABLE %s IN ROW EXCLUSIVE MODE NOWAIT', relation);
END
$$;

-- The moment that is meant by `visible_at` or, without it, by so many seconds from now. What is past is
-- now: nothing overtakes what has waited for longer.
CREATE FUNCTION pgmq_gateway.moment(visible_at timestamptz, delay integer)
RETURNS timestamptz LANGUAGE sql VOLATILE AS $$
    SELECT CASE WHEN visible_at IS NULL THEN clock_timestamp() + make_interval(secs => delay)
                ELSE greatest(visible_at, clock_timestamp()) END
$$;

-- Seconds until a moment; at most a day, in which somebody will ask again.
CREATE FUNCTION pgmq_gateway.seconds_until(moment timestamptz)
RETURNS float8 LANGUAGE sql VOLATILE AS $$
    SELECT extract(epoch FROM greatest(least(moment, clock_timestamp() + interval '1 day'),
                                       clock_timestamp() - interval '1 day')
                              - clock_timestamp())::float8
$$;

-- Whether an error is about the row that was worked on (a constraint, a trigger, a policy, a lock on it),
-- so that other rows may fare better: not about the server, the connection, the table or the transaction.
CREATE FUNCTION pgmq_gateway.is_about_a_row(code text)
RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
    SELECT code = '55P03'
        OR left(code, 2) NOT IN ('08', '25', '40', '53', '55', '57', '58', 'XX')
           AND code NOT IN ('PGW01', 'PGW33', 'PGW40', 'PGW44')
$$;

-- The word for an error about a row, as the gateway reads it.
CREATE FUNCTION pgmq_gateway.outcome_of(code text)
RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE code WHEN '55P03' THEN 'locked' WHEN '42501' THEN 'forbidden'
                     WHEN '23505' THEN 'conflict' WHEN 'PGW05' THEN 'needs_headers'
                     WHEN 'PGW23' THEN 'not_stored' ELSE 'rejected' END
$$;

-- Raises what PostgreSQL would where the role lacks a right on a whole table: a policy, which concerns
-- some rows, raises the same.
CREATE FUNCTION pgmq_gateway.require_privilege(relation regclass, privilege text)
RETURNS void LANGUAGE plpgsql STABLE AS $$
BEGIN
    IF NOT has_table_privilege(relation, privilege) THEN
        RAISE EXCEPTION '% on %', privilege, relation USING ERRCODE = 'PGW33';
    END IF;
END
$$;

-- Whether a table has triggers that are asked before a row is updated (16) or deleted (8), and may keep it
-- as it is without a word.
CREATE FUNCTION pgmq_gateway.has_row_trigger(relation regclass, kind integer)
RETURNS boolean LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN EXISTS (SELECT FROM pg_catalog.pg_trigger t
                   WHERE t.tgrelid = relation AND NOT t.tgisinternal AND t.tgenabled <> 'D'
                     -- 1: for each row; 2: before.
                     AND t.tgtype & 3 = 3 AND t.tgtype & kind <> 0);
END
$$;
