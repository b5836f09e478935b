-- What people look at and act on: pages of messages by their state, the health of a queue's table, keys.

-- A page of messages for people to look at, leasing nothing. `source` is what they are: `all`, `waiting`,
-- `in_flight` or `delayed` in the queue, or `archived`. They come in order of msg_id, behind `after_msg_id`; those
-- that are hidden in order of vt, behind `after_vt` too. Those alone that were stored (or archived) within a time,
-- contain `filter`, and are dead letters of the queue `origin`. At most `max_rows` are looked at: where that ends
-- the page before it has `max_messages`, the last row is a mark that says where to go on. What would take long to
-- send is left out of a row; with `ids_only` all of it is.
CREATE FUNCTION pgmq_gateway.browse_messages(
    queue text, source text, after_vt timestamptz, after_msg_id bigint, max_messages integer, max_rows integer,
    since timestamptz, until timestamptz, filter jsonb, origin text, ids_only boolean
) RETURNS TABLE (
    msg_id bigint, read_ct integer, enqueued_at timestamptz, last_read_at timestamptz, vt timestamptz,
    archived_at timestamptz, message jsonb, headers jsonb, bytes bigint, is_mark boolean
) LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms' AS $$
DECLARE
    is_archive boolean := source = 'archived';
    relation regclass := CASE WHEN source = 'archived' THEN pgmq_gateway.archive_table(queue)
                              ELSE pgmq_gateway.queue_table(queue) END;
    is_hidden boolean := source IN ('in_flight', 'delayed');
    rows_from text;
    sorted text := CASE WHEN source IN ('in_flight', 'delayed') THEN 'm.vt, m.msg_id' ELSE 'm.msg_id' END;
    first_id bigint := after_msg_id;
    found integer;
BEGIN
    IF since IS NOT NULL AND NOT is_archive AND NOT is_hidden AND after_msg_id = 0 THEN
        first_id := pgmq_gateway.last_id_before(relation, since);
    END IF;
    rows_from := format(
        'FROM (SELECT %s, %s AS archived_at FROM %s m WHERE %s ORDER BY %s LIMIT $6) m',
        pgmq_gateway.columns(relation),
        CASE WHEN is_archive THEN 'm.archived_at' ELSE 'NULL::timestamptz' END,
        relation,
        CASE WHEN is_hidden
             THEN 'm.vt > statement_timestamp() AND ($1 IS NULL OR m.vt >= $1 AND (m.vt, m.msg_id) > ($1, $2))'
             ELSE 'm.msg_id > $2' END,
        sorted);
    RETURN QUERY EXECUTE format(
        '/* pgmq_gateway */ SELECT m.msg_id, m.read_ct, m.enqueued_at, m.last_read_at, m.vt, m.archived_at,
                CASE WHEN pgmq_gateway.is_small(m.message, $9) THEN m.message END,
                CASE WHEN pgmq_gateway.is_small(m.headers, $9) THEN m.headers END,
                pg_column_size(m.message)::bigint, false
         %1$s WHERE %2$s AND ($3 IS NULL OR %4$s >= $3) AND ($4 IS NULL OR %4$s < $4)
            AND ($7 IS NULL OR m.message @> $7)
            AND ($8 IS NULL OR m.headers @> jsonb_build_object(''x-dead-letter-queue'', $8))
         ORDER BY %3$s LIMIT $5',
        rows_from,
        CASE source WHEN 'waiting' THEN 'm.vt <= statement_timestamp()'
                    WHEN 'in_flight' THEN 'm.read_ct > 0'
                    WHEN 'delayed' THEN 'm.read_ct = 0' ELSE 'true' END,
        sorted, CASE WHEN is_archive THEN 'm.archived_at' ELSE 'm.enqueued_at' END
    ) USING after_vt, first_id, since, until, max_messages, max_rows, filter, origin, ids_only;
    GET DIAGNOSTICS found = ROW_COUNT;
    IF found < max_messages THEN
        RETURN QUERY EXECUTE format(
            '/* pgmq_gateway */ SELECT m.msg_id, 0, m.enqueued_at, NULL::timestamptz, m.vt, NULL::timestamptz, NULL::jsonb,
                    NULL::jsonb, 0::bigint, true %s ORDER BY %s OFFSET $6 - 1 LIMIT 1', rows_from, sorted
        ) USING after_vt, first_id, NULL::timestamptz, NULL::timestamptz, 0, max_rows;
    END IF;
END
$$;

-- Whether a value is sent along in a list: it is stored in few bytes, and written in few.
CREATE FUNCTION pgmq_gateway.is_small(document jsonb, ids_only boolean)
RETURNS boolean LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN NOT ids_only AND pg_column_size(document) <= 4096
       AND pgmq_gateway.expanded_size(document) <= 65536;
END
$$;

-- The last id of those that were stored more than an hour before a moment, 0 if there is none. Ids grow with
-- time, as far as no transaction that stores takes longer than that hour.
CREATE FUNCTION pgmq_gateway.last_id_before(relation regclass, moment timestamptz)
RETURNS bigint LANGUAGE plpgsql STABLE AS $$
DECLARE
    low bigint := 0;
    high bigint;
    middle bigint;
    stored timestamptz;
BEGIN
    EXECUTE format('/* pgmq_gateway */ SELECT coalesce(max(m.msg_id), 0) FROM %s m', relation) INTO high;
    -- What is up to `low` is before it; what is behind `high` is not.
    WHILE low < high LOOP
        middle := low + (high - low) / 2;
        EXECUTE format(
            '/* pgmq_gateway */ SELECT m.enqueued_at FROM %s m WHERE m.msg_id > $1 ORDER BY m.msg_id LIMIT 1',
            relation) INTO stored USING middle;
        IF stored IS NULL OR stored >= moment - interval '1 hour' THEN
            high := middle;
        ELSE
            low := middle + 1;
        END IF;
    END LOOP;
    RETURN greatest(low - 1, 0);
END
$$;
