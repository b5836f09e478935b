-- The gateway's own functions over PGMQ's tables. Everything lives in schema pgmq_gateway;
-- nothing of PGMQ's is changed, and no signature mentions a type of PGMQ's, so that PGMQ can be
-- upgraded or dropped without asking these first.

-- Stores messages that have a moment of visibility each, in order, as pgmq.send_batch (which has
-- one moment for all) does. `delays` counts seconds from now; `visible_at` wins where it is set.
CREATE FUNCTION pgmq_gateway.send_batch(
    queue text, messages jsonb[], headers jsonb[], delays integer[], visible_at timestamptz[]
) RETURNS SETOF bigint LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY EXECUTE pg_catalog.format(
        $query$
        INSERT INTO pgmq.%I (vt, message, headers)
        SELECT coalesce(new.visible_at, clock_timestamp() + make_interval(secs => new.delay)),
               new.message, new.headers
        FROM unnest($1, $2, $3, $4) WITH ORDINALITY
             AS new (message, headers, delay, visible_at, position)
        ORDER BY new.position
        RETURNING msg_id
        $query$,
        pgmq.format_table_name(queue, 'q')
    ) USING messages, headers, delays, visible_at;
END
$$;

-- Messages in order of msg_id, leasing nothing.
CREATE FUNCTION pgmq_gateway.peek(queue text, after_msg_id bigint, max_messages integer)
RETURNS TABLE (
    msg_id bigint, read_ct integer, enqueued_at timestamptz, last_read_at timestamptz,
    vt timestamptz, message jsonb, headers jsonb
) LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN QUERY EXECUTE pg_catalog.format(
        $query$
        SELECT m.msg_id, m.read_ct, m.enqueued_at, m.last_read_at, m.vt, m.message, m.headers
        FROM pgmq.%I m WHERE m.msg_id > $1 ORDER BY m.msg_id LIMIT $2
        $query$,
        pgmq.format_table_name(queue, 'q')
    ) USING after_msg_id, max_messages;
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
    size bigint;
BEGIN
    EXECUTE pg_catalog.format(
        'SELECT octet_length(m.message::text)::bigint + coalesce(octet_length(m.headers::text), 0)
         FROM pgmq.%I m WHERE m.msg_id = $1', pgmq.format_table_name(queue, 'q')
    ) INTO size USING id;
    RETURN coalesce(size, 0) < 1000000000;
EXCEPTION WHEN program_limit_exceeded OR out_of_memory THEN
    RETURN false;
END
$$;

-- Moves messages into the archive that are so large, once read, that PostgreSQL cannot send them,
-- and returns their ids. Looks at the `max_messages` that would be delivered next: at the size of
-- their numbers or, without `max_expanded`, at what happens when they are written out.
CREATE FUNCTION pgmq_gateway.quarantine(queue text, max_messages integer, max_expanded bigint)
RETURNS SETOF bigint LANGUAGE plpgsql AS $$
DECLARE
    candidate bigint;
BEGIN
    IF max_expanded IS NULL THEN
        FOR candidate IN EXECUTE pg_catalog.format(
            'SELECT m.msg_id FROM pgmq.%I m WHERE m.vt <= clock_timestamp()
             ORDER BY m.msg_id LIMIT $1', pgmq.format_table_name(queue, 'q')
        ) USING max_messages
        LOOP
            IF NOT pgmq_gateway.is_readable(queue, candidate) AND pgmq.archive(queue, candidate) THEN
                RETURN NEXT candidate;
            END IF;
        END LOOP;
        RETURN;
    END IF;
    FOR candidate IN EXECUTE pg_catalog.format(
        $query$
        SELECT m.msg_id FROM (
            SELECT next.msg_id, next.message, next.headers FROM pgmq.%1$I next
            WHERE next.vt <= clock_timestamp() ORDER BY next.msg_id LIMIT $1
        ) m
        WHERE coalesce(pgmq_gateway.expanded_size(m.message), 0)
            + coalesce(pgmq_gateway.expanded_size(m.headers), 0) > $2
        $query$,
        pgmq.format_table_name(queue, 'q')
    ) USING max_messages, max_expanded
    LOOP
        IF pgmq.archive(queue, candidate) THEN
            RETURN NEXT candidate;
        END IF;
    END LOOP;
END
$$;

-- Makes a queue, once: `outcome` is `created`, `exists` (alike), `differs` (another kind, in
-- `existing`), `partition_differs`, `folds` (onto the queue in `existing`) or `no_partman`.
CREATE FUNCTION pgmq_gateway.create_queue(
    queue text, kind text, partition_interval text, retention text,
    OUT outcome text, OUT existing text
) LANGUAGE plpgsql AS $$
DECLARE
    partman text := (SELECT quote_ident(n.nspname) FROM pg_extension e
                     JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'pg_partman');
    q_table text := pgmq.format_table_name(queue, 'q');
    alike boolean;
BEGIN
    PERFORM pgmq.acquire_queue_lock(queue);
    SELECT CASE WHEN m.is_partitioned THEN 'partitioned' WHEN m.is_unlogged THEN 'unlogged'
           ELSE 'standard' END
    INTO existing FROM pgmq.meta m WHERE m.queue_name = queue;
    IF existing <> kind THEN
        outcome := 'differs';
        RETURN;
    END IF;
    IF existing IS NOT NULL THEN
        outcome := 'exists';
        IF kind = 'partitioned' AND partman IS NOT NULL AND partition_interval IS NOT NULL THEN
            EXECUTE pg_catalog.format(
                'SELECT CASE WHEN $2 ~ ''^[0-9]+$'' OR c.partition_interval ~ ''^[0-9]+$''
                        THEN c.partition_interval = $2 AND c.retention = $3
                        ELSE c.partition_interval::interval = $2::interval
                             AND c.retention::interval = $3::interval END
                 FROM %s.part_config c WHERE c.parent_table = $1', partman)
            INTO alike USING 'pgmq.' || q_table, partition_interval, retention;
            IF NOT coalesce(alike, true) THEN
                outcome := 'partition_differs';
            END IF;
        END IF;
        RETURN;
    END IF;
    SELECT m.queue_name INTO existing FROM pgmq.meta m
    WHERE pgmq.format_table_name(m.queue_name, 'q') = q_table LIMIT 1;
    IF existing IS NOT NULL THEN
        outcome := 'folds';
        RETURN;
    END IF;
    IF kind = 'partitioned' AND partman IS NULL THEN
        outcome := 'no_partman';
        RETURN;
    END IF;
    CASE kind
        WHEN 'standard' THEN PERFORM pgmq.create_non_partitioned(queue);
        WHEN 'unlogged' THEN PERFORM pgmq.create_unlogged(queue);
        WHEN 'partitioned' THEN
            PERFORM pgmq.create_partitioned(queue, coalesce(partition_interval, '10000'),
                                            coalesce(retention, '100000'));
    END CASE;
    outcome := 'created';
END
$$;

-- pgmq.metrics and how many messages were delivered and are still hidden.
CREATE FUNCTION pgmq_gateway.metrics(
    queue text, OUT queue_length bigint, OUT queue_visible_length bigint, OUT in_flight bigint,
    OUT newest_msg_age_sec integer, OUT oldest_msg_age_sec integer, OUT total_messages bigint,
    OUT scrape_time timestamptz
) LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE pg_catalog.format(
        'SELECT count(*) FROM pgmq.%I m WHERE m.vt > now() AND m.read_ct > 0',
        pgmq.format_table_name(queue, 'q')
    ) INTO in_flight;
    SELECT m.queue_length, m.queue_visible_length, m.newest_msg_age_sec, m.oldest_msg_age_sec,
           m.total_messages, m.scrape_time
    INTO queue_length, queue_visible_length, newest_msg_age_sec, oldest_msg_age_sec,
         total_messages, scrape_time
    FROM pgmq.metrics(queue) m;
END
$$;

-- The figures of a queue at a bounded cost: at most `count_limit` rows are counted, beyond that
-- the length is the estimate that PostgreSQL keeps.
CREATE FUNCTION pgmq_gateway.queue_figures(
    queue text, count_limit integer, OUT length bigint, OUT visible bigint, OUT oldest_age float8
) LANGUAGE plpgsql STABLE AS $$
DECLARE
    q_table text := pgmq.format_table_name(queue, 'q');
    -- The column with an index that grows with time: a partitioned queue may lack one on msg_id.
    time_order name := coalesce(
        (SELECT a.attname FROM pg_partitioned_table p
         JOIN pg_attribute a ON a.attrelid = p.partrelid AND a.attnum = p.partattrs[0]
         WHERE p.partrelid = pg_catalog.format('pgmq.%I', q_table)::regclass), 'msg_id');
BEGIN
    EXECUTE pg_catalog.format(
        $query$
        SELECT (SELECT count(*) FROM (SELECT FROM pgmq.%1$I LIMIT $1 + 1) some_rows),
               (SELECT count(*) FROM (SELECT FROM pgmq.%1$I m WHERE m.vt <= now() LIMIT $1 + 1) v),
               (SELECT extract(epoch FROM now() - m.enqueued_at)
                FROM pgmq.%1$I m ORDER BY m.%2$I LIMIT 1)
        $query$, q_table, time_order
    ) INTO length, visible, oldest_age USING count_limit;
    IF length <= count_limit THEN
        RETURN;
    END IF;
    -- A partitioned table has no rows of its own: its partitions have.
    EXECUTE pg_catalog.format(
        $query$
        SELECT greatest($1, sum(pg_stat_get_live_tuples(relid)))
        FROM (SELECT relid FROM pg_partition_tree(%1$L) UNION SELECT %1$L::regclass) part
        $query$, pg_catalog.format('pgmq.%I', q_table)
    ) INTO length USING length;
    -- What is hidden is usually little; what is visible is then most of the length.
    IF visible > count_limit THEN
        EXECUTE pg_catalog.format(
            'SELECT greatest($1, $2 - count(*))
             FROM (SELECT FROM pgmq.%I m WHERE m.vt > now() LIMIT $3) hidden', q_table
        ) INTO visible USING visible, length, count_limit;
    END IF;
END
$$;
