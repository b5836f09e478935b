-- What the other functions stand on: names of tables, and what older PGMQs lack.

-- The table of a queue; fails as a statement on it would if there is none. What is_whole_table says
-- is asked here without a call, as every receive comes by.
CREATE FUNCTION pgmq_gateway.queue_table(queue text)
RETURNS regclass LANGUAGE plpgsql STABLE AS $$
DECLARE
    relation regclass := format('pgmq.%I', pgmq.format_table_name(queue, 'q'))::regclass;
BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = relation
                   AND c.relkind IN ('r', 'p') AND NOT c.relispartition) THEN
        RAISE undefined_table USING MESSAGE = format('%s is not the table of a queue', relation);
    END IF;
    RETURN relation;
END
$$;

-- The archive of a queue, in the same way.
CREATE FUNCTION pgmq_gateway.archive_table(queue text)
RETURNS regclass LANGUAGE plpgsql STABLE AS $$
DECLARE
    relation regclass := format('pgmq.%I', pgmq.format_table_name(queue, 'a'))::regclass;
BEGIN
    IF NOT pgmq_gateway.is_whole_table(relation) THEN
        RAISE undefined_table USING MESSAGE = format('%s is not an archive', relation);
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

-- Whether a relation can be a queue's or an archive's: a table that is no part of another one.
CREATE FUNCTION pgmq_gateway.is_whole_table(relation regclass)
RETURNS boolean LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN EXISTS (SELECT FROM pg_catalog.pg_class c
                   WHERE c.oid = relation AND c.relkind IN ('r', 'p') AND NOT c.relispartition);
END
$$;

-- Whether a table has a column. One that was dropped a moment ago has none, which is not the mark of an
-- old PGMQ: its queue is gone.
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
    RETURN format(
        -- PostgreSQL knows moments that no calendar has.
        'm.msg_id, m.read_ct, m.enqueued_at, %s,
         least(greatest(m.vt, ''0001-01-01 00:00+00''::timestamptz),
               ''9999-12-31 00:00+00''::timestamptz), m.message, %s',
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

-- Who makes, changes and drops a queue takes turns; the lock is PGMQ's own.
CREATE FUNCTION pgmq_gateway.lock_queue(queue text)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('pgmq.queue_' || queue));
END
$$;

-- Seconds until a moment; at most a day, in which somebody will ask again.
CREATE FUNCTION pgmq_gateway.seconds_until(moment timestamptz)
RETURNS float8 LANGUAGE sql VOLATILE AS $$
    SELECT extract(epoch FROM greatest(least(moment, clock_timestamp() + interval '1 day'),
                                       clock_timestamp() - interval '1 day')
                              - clock_timestamp())::float8
$$;
