-- Leasing, popping and looking at messages.

-- Leases messages. As pgmq.read, but at a cost that does not grow with the messages in flight: it
-- walks the index on vt from its oldest entry, where pgmq.read walks all rows in order of msg_id.
-- The moment is statement_timestamp(), which is the same for the whole statement, so that the index
-- knows where to stop. What has been visible for longest comes first. The rows are updated by where
-- they stand, which leaves the planner no way to walk the whole table instead. A partitioned queue
-- has no such index, and is read by msg_id, as every queue is where `by_id` is wished.
--
-- With `max_receives`, messages that were delivered so often are moved away first. A last row without
-- msg_id tells how many (`dead`) and, with `want_due` and fewer messages than asked for, after how
-- many seconds the next hidden message becomes visible (`due_in`).
CREATE FUNCTION pgmq_gateway.receive(
    queue text, hide_seconds integer, max_messages integer, filter jsonb, by_id boolean,
    want_due boolean, max_receives integer, dead_letter_queue text
) RETURNS TABLE (
    msg_id bigint, read_ct integer, enqueued_at timestamptz, last_read_at timestamptz,
    vt timestamptz, message jsonb, headers jsonb, relation oid, due_in float8, dead integer
) LANGUAGE plpgsql AS $$
DECLARE
    q_name text := pgmq.format_table_name(queue, 'q');
    q_table regclass := format('pgmq.%I', q_name)::regclass;
    found_count integer;
    is_partitioned boolean;
    has_stamps boolean;
    has_headers boolean;
BEGIN
    SELECT c.relkind = 'p',
           EXISTS (SELECT FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid
                   AND a.attname = 'last_read_at' AND NOT a.attisdropped),
           EXISTS (SELECT FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid
                   AND a.attname = 'headers' AND NOT a.attisdropped)
    INTO is_partitioned, has_stamps, has_headers
    FROM pg_catalog.pg_class c
    WHERE c.oid = q_table AND c.relkind IN ('r', 'p') AND NOT c.relispartition;
    IF is_partitioned IS NULL THEN
        RAISE undefined_table USING MESSAGE = format('%s is not the table of a queue', q_table);
    END IF;
    dead := 0;
    by_id := by_id OR is_partitioned;
    IF max_receives IS NOT NULL THEN
        dead := pgmq_gateway.bury(queue, max_messages, filter, by_id, max_receives,
                                  dead_letter_queue);
    END IF;
    RETURN QUERY EXECUTE format(
        $query$
        UPDATE %1$s m
        SET vt = clock_timestamp() + make_interval(secs => $1), read_ct = m.read_ct + 1 %2$s
        WHERE m.%3$s = ANY (ARRAY(
            SELECT q.%3$s FROM %1$s q
            WHERE q.vt <= statement_timestamp() %4$s %5$s
            ORDER BY q.%6$s LIMIT $2 FOR UPDATE SKIP LOCKED
        ))
        RETURNING m.msg_id, m.read_ct, m.enqueued_at, %7$s, m.vt, m.message, %8$s, $5::oid,
                  NULL::float8, NULL::integer
        $query$,
        q_table,
        CASE WHEN has_stamps THEN ', last_read_at = clock_timestamp()' END,
        CASE WHEN by_id THEN 'msg_id' ELSE 'ctid' END,
        CASE WHEN filter IS NOT NULL THEN 'AND q.message @> $3' END,
        CASE WHEN max_receives IS NOT NULL
             THEN 'AND NOT ' || pgmq_gateway.is_dead(q_table, '$4') END,
        CASE WHEN by_id THEN 'msg_id' ELSE 'vt' END,
        CASE WHEN has_stamps THEN 'm.last_read_at' ELSE 'NULL::timestamptz' END,
        CASE WHEN has_headers THEN 'm.headers' ELSE 'NULL::jsonb' END
    ) USING hide_seconds, max_messages, filter, max_receives, q_table;
    GET DIAGNOSTICS found_count = ROW_COUNT;
    IF want_due AND found_count < max_messages THEN
        due_in := pgmq_gateway.due_in(q_name);
    END IF;
    IF due_in IS NOT NULL OR dead > 0 THEN
        RETURN NEXT;
    END IF;
END
$$;

-- Seconds until the next hidden message of a queue's table becomes visible.
CREATE FUNCTION pgmq_gateway.due_in(q_table text)
RETURNS float8 LANGUAGE plpgsql AS $$
DECLARE
    due float8;
BEGIN
    EXECUTE format(
        'SELECT pgmq_gateway.seconds_until(q.vt) FROM pgmq.%I q
         WHERE q.vt > statement_timestamp() ORDER BY q.vt LIMIT 1', q_table
    ) INTO due;
    RETURN due;
END
$$;

-- Reads messages and deletes them at once.
CREATE FUNCTION pgmq_gateway.pop(
    queue text, max_messages integer, by_id boolean, max_receives integer, dead_letter_queue text
) RETURNS TABLE (
    msg_id bigint, read_ct integer, enqueued_at timestamptz, last_read_at timestamptz,
    vt timestamptz, message jsonb, headers jsonb, relation oid
) LANGUAGE plpgsql AS $$
DECLARE
    q_table regclass := pgmq_gateway.queue_table(queue);
BEGIN
    by_id := by_id OR (SELECT c.relkind = 'p' FROM pg_catalog.pg_class c WHERE c.oid = q_table);
    IF max_receives IS NOT NULL THEN
        PERFORM pgmq_gateway.bury(queue, max_messages, NULL, by_id, max_receives,
                                  dead_letter_queue);
    END IF;
    RETURN QUERY EXECUTE format(
        $query$
        DELETE FROM %1$s m
        WHERE m.%2$s = ANY (ARRAY(
            SELECT q.%2$s FROM %1$s q WHERE q.vt <= statement_timestamp() %3$s
            ORDER BY q.%4$s LIMIT $1 FOR UPDATE SKIP LOCKED
        ))
        RETURNING %5$s, $3::oid
        $query$,
        q_table,
        CASE WHEN by_id THEN 'msg_id' ELSE 'ctid' END,
        CASE WHEN max_receives IS NULL THEN ''
             ELSE 'AND NOT ' || pgmq_gateway.is_dead(q_table, '$2') END,
        CASE WHEN by_id THEN 'msg_id' ELSE 'vt' END,
        pgmq_gateway.columns(q_table)
    ) USING max_messages, max_receives, q_table;
END
$$;

-- Gives back deliveries that nobody took: visible at once, and not counted as delivered. Whoever
-- has been given a message since keeps it: then its read_ct is another.
CREATE FUNCTION pgmq_gateway.release(queue text, msg_ids bigint[], read_cts integer[])
RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    released bigint;
BEGIN
    EXECUTE pg_catalog.format(
        $query$
        UPDATE pgmq.%I m
        SET vt = clock_timestamp(), read_ct = m.read_ct - 1
        FROM unnest($1, $2) AS given (msg_id, read_ct)
        WHERE m.msg_id = given.msg_id AND m.read_ct = given.read_ct
        $query$,
        pgmq.format_table_name(queue, 'q')
    ) USING msg_ids, read_cts;
    GET DIAGNOSTICS released = ROW_COUNT;
    RETURN released;
END
$$;

-- Messages in order of msg_id, leasing nothing.
CREATE FUNCTION pgmq_gateway.peek(queue text, after_msg_id bigint, max_messages integer)
RETURNS TABLE (
    msg_id bigint, read_ct integer, enqueued_at timestamptz, last_read_at timestamptz,
    vt timestamptz, message jsonb, headers jsonb, relation oid
) LANGUAGE plpgsql STABLE AS $$
DECLARE
    q_table regclass := pgmq_gateway.queue_table(queue);
BEGIN
    RETURN QUERY EXECUTE format(
        'SELECT %s, $3::oid FROM %s m WHERE m.msg_id > $1 ORDER BY m.msg_id LIMIT $2',
        pgmq_gateway.columns(q_table), q_table
    ) USING after_msg_id, max_messages, q_table;
END
$$;

-- How many bytes the numbers of a JSON value take once they are written out in full, from above
-- and without writing them out: numbers below 10^1000 are not looked at, larger ones count as
-- the next power of ten of digits.
CREATE FUNCTION pgmq_gateway.expanded_size(document jsonb)
RETURNS bigint LANGUAGE sql IMMUTABLE STRICT AS $$
    SELECT coalesce(sum(CASE
        WHEN abs(number.n) >= ('1e100000')::numeric THEN 131072
        WHEN abs(number.n) >= ('1e10000')::numeric THEN 100000
        WHEN abs(number.n) >= ('1e1000')::numeric THEN 10000
        ELSE 0
    END + scale(number.n)), 0)::bigint
    FROM (
        SELECT leaf::numeric AS n
        FROM jsonb_path_query(document, 'strict $.** ? (@.type() == "number")') AS leaf
    ) AS number
$$;

-- Whether a message can be written out: PostgreSQL makes no text of 1 GiB or more.
CREATE FUNCTION pgmq_gateway.is_readable(queue text, id bigint)
RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    q_table regclass := pgmq_gateway.queue_table(queue);
    size bigint;
BEGIN
    EXECUTE format(
        'SELECT octet_length(m.message::text)::bigint + coalesce(octet_length(%s), 0)
         FROM %s m WHERE m.msg_id = $1',
        CASE WHEN pgmq_gateway.has_column(q_table, 'headers') THEN 'm.headers::text' ELSE 'NULL' END,
        q_table
    ) INTO size USING id;
    RETURN coalesce(size, 0) < 1000000000;
EXCEPTION WHEN program_limit_exceeded OR out_of_memory THEN
    RETURN false;
END
$$;

-- Moves messages into the archive that are so large, once read, that PostgreSQL cannot send them,
-- and returns their ids. Looks at the `max_messages` that would be delivered next: at the size of
-- their numbers or, without `max_expanded`, at what happens when they are written out.
CREATE FUNCTION pgmq_gateway.quarantine(
    queue text, max_messages integer, max_expanded bigint
) RETURNS SETOF bigint LANGUAGE plpgsql AS $$
DECLARE
    q_table regclass := pgmq_gateway.queue_table(queue);
    headers text := CASE WHEN pgmq_gateway.has_column(q_table, 'headers')
                         THEN 'm.headers' ELSE 'NULL' END;
    candidate bigint;
BEGIN
    IF max_expanded IS NULL THEN
        FOR candidate IN EXECUTE format(
            'SELECT m.msg_id FROM %s m WHERE m.vt <= clock_timestamp()
             ORDER BY m.msg_id LIMIT $1', q_table
        ) USING max_messages
        LOOP
            IF NOT pgmq_gateway.is_readable(queue, candidate) AND pgmq.archive(queue, candidate) THEN
                RETURN NEXT candidate;
            END IF;
        END LOOP;
        RETURN;
    END IF;
    FOR candidate IN EXECUTE format(
        $query$
        SELECT m.msg_id FROM (
            SELECT * FROM %s next WHERE next.vt <= clock_timestamp()
            ORDER BY next.msg_id LIMIT $1
        ) m
        WHERE coalesce(pgmq_gateway.expanded_size(m.message), 0)
            + coalesce(pgmq_gateway.expanded_size(%s), 0) > $2
        $query$, q_table, headers
    ) USING max_messages, max_expanded
    LOOP
        IF pgmq.archive(queue, candidate) THEN
            RETURN NEXT candidate;
        END IF;
    END LOOP;
END
$$;
