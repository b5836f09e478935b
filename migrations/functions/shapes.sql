-- Tables of queues that somebody has altered, so that they are not as PGMQ makes them.

-- Whether this PGMQ gives messages a column that came with a later version of it.
CREATE FUNCTION pgmq_gateway.pgmq_has(column_name text)
RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT EXISTS (SELECT FROM pg_catalog.pg_attribute a
                   WHERE a.attrelid = to_regclass('pgmq.message_record') AND a.attname = column_name
                     AND NOT a.attisdropped)
$$;

-- What differs of the tables of a queue from those that PGMQ makes: a column that is missing or has another type. Null
-- where nothing does; columns that this PGMQ does not have may be missing. Of several, first one without which nothing
-- works.
CREATE FUNCTION pgmq_gateway.differing_column(queue text)
RETURNS text LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms' AS $$
BEGIN
    RETURN (
        SELECT format('column `%s` of the table of its %s', w.name,
                      CASE w.kind WHEN 'q' THEN 'messages' ELSE 'archive' END)
        FROM (VALUES ('q', 'msg_id', 'bigint'::regtype, true), ('q', 'read_ct', 'integer', true),
                     ('q', 'enqueued_at', 'timestamptz', true), ('q', 'last_read_at', 'timestamptz', false),
                     ('q', 'vt', 'timestamptz', true), ('q', 'message', 'jsonb', true),
                     ('q', 'headers', 'jsonb', false),
                     ('a', 'msg_id', 'bigint', true), ('a', 'read_ct', 'integer', true),
                     ('a', 'enqueued_at', 'timestamptz', true), ('a', 'last_read_at', 'timestamptz', false),
                     ('a', 'archived_at', 'timestamptz', true), ('a', 'vt', 'timestamptz', true),
                     ('a', 'message', 'jsonb', true), ('a', 'headers', 'jsonb', false)
             ) w (kind, name, type, is_needed)
        CROSS JOIN LATERAL (
            SELECT to_regclass(format('pgmq.%I', pgmq.format_table_name(queue, w.kind))) AS relation) t
        LEFT JOIN pg_catalog.pg_attribute a
          ON a.attrelid = t.relation AND a.attname = w.name AND NOT a.attisdropped
        WHERE t.relation IS NOT NULL
          AND CASE WHEN a.attname IS NULL THEN w.is_needed OR pgmq_gateway.pgmq_has(w.name)
                   ELSE a.atttypid <> w.type OR a.attgenerated <> '' END
        ORDER BY w.is_needed DESC, w.kind DESC LIMIT 1);
END
$$;

-- Whether an error, in a statement of ours, may say that a table is not as PGMQ makes it.
CREATE FUNCTION pgmq_gateway.is_of_shape(code text)
RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
    SELECT code IN ('42703', '42804', '42883', '42846', '42725', '428C9')
$$;

-- Says of a queue that it has no table: raises PGW43 where PGMQ lists it and its table is something else, such as a
-- view, and PGW40 otherwise.
CREATE FUNCTION pgmq_gateway.refuse_queue(queue text, operation integer DEFAULT NULL)
RETURNS void LANGUAGE plpgsql STABLE AS $$
BEGIN
    PERFORM pgmq_gateway.require_table(queue, operation);
    IF operation IS NULL THEN
        RAISE EXCEPTION '%', queue USING ERRCODE = 'PGW40';
    END IF;
    RAISE EXCEPTION '%', queue USING ERRCODE = 'PGW40', DETAIL = jsonb_build_object('operation', operation);
END
$$;

-- Raises PGW43 where PGMQ lists a queue whose table is something else.
CREATE FUNCTION pgmq_gateway.require_table(queue text, operation integer DEFAULT NULL)
RETURNS void LANGUAGE plpgsql STABLE AS $$
DECLARE
    relation regclass := CASE WHEN queue !~ '[$;'']|--' THEN
        to_regclass(format('pgmq.%I', pgmq.format_table_name(queue, 'q'))) END;
BEGIN
    IF EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = relation AND c.relkind NOT IN ('r', 'p'))
       AND EXISTS (SELECT FROM pgmq.meta m WHERE m.queue_name = queue) THEN
        RAISE EXCEPTION '%', queue USING ERRCODE = 'PGW43', DETAIL = jsonb_build_object(
            'operation', operation, 'differs', format('the table `%s`', pgmq.format_table_name(queue, 'q')));
    END IF;
END
$$;

-- What a table lacks, where an error in a statement of ours says that it has no place for a row, whatever is in it: a
-- partition, or what gives it an id. Null where it does not.
CREATE FUNCTION pgmq_gateway.missing_part(relation regclass, code text, context text, violated text)
RETURNS text LANGUAGE plpgsql STABLE AS $$
DECLARE
    mark integer := strpos(context, '/* pgmq_gateway */');
BEGIN
    IF code NOT IN ('23502', '23514') OR mark = 0 OR strpos(left(context, mark), E'\n') > 0 THEN
        RETURN NULL;
    ELSIF code = '23514' THEN
        RETURN CASE WHEN coalesce(violated, '') = '' THEN 'the partition for the message' END;
    END IF;
    RETURN CASE WHEN EXISTS (
        SELECT FROM pg_catalog.pg_attribute a
        WHERE a.attrelid = relation AND a.attname = 'msg_id' AND a.attidentity = '' AND NOT a.atthasdef)
        THEN 'what numbers its messages' END;
END
$$;

-- Fails an operation of a transaction where the error that it met is due to that; otherwise it does nothing.
CREATE FUNCTION pgmq_gateway.refuse_differing_table(queue text, operation integer, code text)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    differs text;
BEGIN
    IF pgmq_gateway.is_of_shape(code) THEN
        differs := pgmq_gateway.differing_column(queue);
        IF differs IS NOT NULL THEN
            RAISE EXCEPTION '%', queue USING ERRCODE = 'PGW43', DETAIL = jsonb_build_object(
                'operation', operation, 'differs', differs);
        END IF;
    END IF;
END
$$;
