-- Tables of queues that somebody has altered, so that they are not as PGMQ makes them.

-- What differs of the tables of a queue from those that PGMQ makes: a column that is missing or has another type. Null
-- where nothing does; columns that came with later versions of PGMQ may be missing.
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
          AND CASE WHEN a.attname IS NULL THEN w.is_needed
                   ELSE a.atttypid <> w.type OR a.attgenerated <> '' END
        ORDER BY w.kind DESC LIMIT 1);
END
$$;

-- Whether an error, in a statement of ours, may say that a table is not as PGMQ makes it.
CREATE FUNCTION pgmq_gateway.is_of_shape(code text)
RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
    SELECT code IN ('42703', '42804', '42883', '42846', '42725', '428C9')
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
