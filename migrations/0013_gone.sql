-- Whether a table has a column. One that was dropped a moment ago has none, which is not the mark of an
-- old PGMQ: its queue is gone.
CREATE OR REPLACE FUNCTION pgmq_gateway.has_column(relation regclass, name text)
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
