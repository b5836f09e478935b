-- Tables with triggers that come after an update, when its rows have been returned already.

-- Whether a table, or what belongs to it, has triggers that come after an update, and may change rows that were
-- returned as they were before.
CREATE FUNCTION pgmq_gateway.has_after_trigger(relation regclass)
RETURNS boolean LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN EXISTS (
        SELECT FROM pg_catalog.pg_trigger t
        WHERE t.tgrelid IN (SELECT d FROM pgmq_gateway.with_descendants(relation) d)
          AND NOT t.tgisinternal AND t.tgenabled <> 'D'
          -- 2: before; 64: instead; 16: of an update.
          AND t.tgtype & 66 = 0 AND t.tgtype & 16 <> 0);
END
$$;

-- The statement that reads a leased message anew, given the columns that were returned of it: triggers that come after
-- the update may have changed it. One that they have taken away is as it was returned. Null without such triggers.
CREATE FUNCTION pgmq_gateway.read_again_statement(q_table regclass)
RETURNS text LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN CASE WHEN pgmq_gateway.has_after_trigger(q_table) THEN format(
        '/* pgmq_gateway */
         SELECT * FROM (SELECT %1$s FROM %2$s m WHERE m.msg_id = $1 ORDER BY m.vt DESC LIMIT 1) r
         UNION ALL
         SELECT $1, $2, $3, $4, $5, $6, $7 WHERE NOT EXISTS (SELECT FROM %2$s m WHERE m.msg_id = $1)',
        pgmq_gateway.columns(q_table), q_table) END;
END
$$;
