-- PGMQ's own ways of reading, and a few questions. PGMQ's functions name theirs without a schema, so that
-- whoever may create in a schema of the search path could stand in for them: here it is pinned, also where
-- a pooler keeps nothing that is set for a session.

-- Leases messages as pgmq.read does.
CREATE FUNCTION pgmq_gateway.read_as_pgmq(
    queue text, hide_seconds integer, max_messages integer, filter jsonb
) RETURNS TABLE (
    msg_id bigint, read_ct integer, enqueued_at timestamptz, last_read_at timestamptz,
    vt timestamptz, message jsonb, headers jsonb, queue_id bigint
) LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '250ms' AS $$
BEGIN
    PERFORM pgmq_gateway.queue_named(queue);
    RETURN QUERY
        SELECT r.msg_id, r.read_ct, r.enqueued_at, r.last_read_at, r.vt, r.message, r.headers,
               pgmq_gateway.queue_id(queue)
        FROM pgmq.read(queue, hide_seconds, max_messages, coalesce(filter, '{}')) r;
END
$$;

-- Leases messages as pgmq.read_with_poll does.
CREATE FUNCTION pgmq_gateway.poll_as_pgmq(
    queue text, hide_seconds integer, max_messages integer, wait_seconds integer,
    interval_ms integer, filter jsonb
) RETURNS TABLE (
    msg_id bigint, read_ct integer, enqueued_at timestamptz, last_read_at timestamptz,
    vt timestamptz, message jsonb, headers jsonb, queue_id bigint
) LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM pgmq_gateway.queue_named(queue);
    RETURN QUERY
        SELECT r.msg_id, r.read_ct, r.enqueued_at, r.last_read_at, r.vt, r.message, r.headers,
               pgmq_gateway.queue_id(queue)
        FROM pgmq.read_with_poll(queue, hide_seconds, max_messages, wait_seconds, interval_ms,
                                 coalesce(filter, '{}')) r;
END
$$;

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
