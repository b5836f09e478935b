-- Questions of PGMQ's tables, with the search path pinned: whoever may create in a schema of it could stand in
-- for what is called there.

-- Whether PGMQ lists a queue of exactly this name, and its table is there.
CREATE FUNCTION pgmq_gateway.queue_exists(queue text)
RETURNS boolean LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN EXISTS (SELECT FROM pgmq.meta m WHERE m.queue_name = queue)
       AND pgmq_gateway.find_queue_table(queue) IS NOT NULL;
END
$$;

-- As find_queue_table.
CREATE FUNCTION pgmq_gateway.table_of(queue text)
RETURNS regclass LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN pgmq_gateway.find_queue_table(queue);
END
$$;
