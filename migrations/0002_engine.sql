-- What the engine asks on behalf of many clients at once.

-- As pgmq.read, but at a cost that does not grow with the messages in flight: it walks the index on
-- vt from its oldest entry, where pgmq.read walks all rows in order of msg_id. The moment is
-- statement_timestamp(), which is the same for the whole statement, so that the index knows where
-- to stop. What has been visible for longest comes first. The rows are updated by where they stand,
-- which leaves the planner no way to walk the whole table instead. A partitioned queue has no such index and
-- is read by pgmq.read.
--
-- With `want_due`, and fewer messages than asked for, a last row without msg_id tells in `due_in`
-- after how many seconds the next hidden message becomes visible.
CREATE FUNCTION pgmq_gateway.read(
    queue text, hide_seconds integer, max_messages integer, filter jsonb, want_due boolean
) RETURNS TABLE (
    msg_id bigint, read_ct integer, enqueued_at timestamptz, last_read_at timestamptz,
    vt timestamptz, message jsonb, headers jsonb, due_in float8
) LANGUAGE plpgsql AS $$
DECLARE
    q_table text := pgmq.format_table_name(queue, 'q');
    found_count integer;
BEGIN
    IF (SELECT c.relkind FROM pg_catalog.pg_class c
        WHERE c.oid = pg_catalog.format('pgmq.%I', q_table)::regclass) = 'p' THEN
        RETURN QUERY SELECT r.msg_id, r.read_ct, r.enqueued_at, r.last_read_at, r.vt, r.message,
                            r.headers, NULL::float8
                     FROM pgmq.read(queue, hide_seconds, max_messages, coalesce(filter, '{}')) r;
    ELSE
        RETURN QUERY EXECUTE pg_catalog.format(
            $query$
            UPDATE pgmq.%1$I m
            SET vt = clock_timestamp() + make_interval(secs => $1), read_ct = m.read_ct + 1,
                last_read_at = clock_timestamp()
            WHERE m.ctid = ANY (ARRAY(
                SELECT q.ctid FROM pgmq.%1$I q
                WHERE q.vt <= statement_timestamp() %2$s
                ORDER BY q.vt LIMIT $2 FOR UPDATE SKIP LOCKED
            ))
            RETURNING m.msg_id, m.read_ct, m.enqueued_at, m.last_read_at, m.vt, m.message,
                      m.headers, NULL::float8
            $query$, q_table, CASE WHEN filter IS NULL THEN '' ELSE 'AND q.message @> $3' END
        ) USING hide_seconds, max_messages, filter;
    END IF;
    GET DIAGNOSTICS found_count = ROW_COUNT;
    IF want_due AND found_count < max_messages THEN
        due_in := pgmq_gateway.due_in(q_table);
        IF due_in IS NOT NULL THEN
            msg_id := NULL;
            RETURN NEXT;
        END IF;
    END IF;
END
$$;

-- Seconds until the next hidden message of a queue's table becomes visible.
CREATE FUNCTION pgmq_gateway.due_in(q_table text)
RETURNS float8 LANGUAGE plpgsql AS $$
DECLARE
    due float8;
BEGIN
    EXECUTE pg_catalog.format(
        'SELECT extract(epoch FROM q.vt - clock_timestamp())::float8 FROM pgmq.%I q
         WHERE q.vt > statement_timestamp() ORDER BY q.vt LIMIT 1', q_table
    ) INTO due;
    RETURN due;
END
$$;

-- For queues in which somebody waits: whether there is something to be had, when there will be, and
-- whether PGMQ's own insert notifications are on. A queue that is gone counts as ready, so that
-- those who wait learn of it. The oldest entry of the index on vt tells it all.
CREATE FUNCTION pgmq_gateway.sweep(queues text[])
RETURNS TABLE (queue text, ready boolean, due_in float8, notifies boolean) LANGUAGE plpgsql AS $$
DECLARE
    q_table text;
    relation regclass;
BEGIN
    FOREACH queue IN ARRAY queues LOOP
        q_table := pgmq.format_table_name(queue, 'q');
        relation := pg_catalog.to_regclass(pg_catalog.format('pgmq.%I', q_table));
        due_in := NULL;
        notifies := false;
        IF relation IS NULL THEN
            ready := true;
        ELSE
            EXECUTE pg_catalog.format(
                'SELECT extract(epoch FROM q.vt - clock_timestamp())::float8 FROM pgmq.%I q
                 ORDER BY q.vt LIMIT 1', q_table
            ) INTO due_in;
            ready := coalesce(due_in <= 0, false);
            notifies := EXISTS (
                SELECT FROM pg_catalog.pg_trigger t WHERE t.tgrelid = relation
                AND t.tgname = 'trigger_notify_queue_insert_listeners');
        END IF;
        RETURN NEXT;
    END LOOP;
END
$$;

-- Sets the visibility of several messages, each its own; `visible_at` wins where it is set.
CREATE FUNCTION pgmq_gateway.set_vt(
    queue text, msg_ids bigint[], delays integer[], visible_at timestamptz[]
) RETURNS TABLE (
    msg_id bigint, read_ct integer, enqueued_at timestamptz, last_read_at timestamptz,
    vt timestamptz, message jsonb, headers jsonb
) LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY EXECUTE pg_catalog.format(
        $query$
        UPDATE pgmq.%I m
        SET vt = coalesce(wish.visible_at, clock_timestamp() + make_interval(secs => wish.delay))
        FROM unnest($1, $2, $3) AS wish (msg_id, delay, visible_at)
        WHERE m.msg_id = wish.msg_id
        RETURNING m.msg_id, m.read_ct, m.enqueued_at, m.last_read_at, m.vt, m.message, m.headers
        $query$, pgmq.format_table_name(queue, 'q')
    ) USING msg_ids, delays, visible_at;
END
$$;
