-- The archive: looking at it, and taking back from it.

-- Archived messages in order of msg_id.
CREATE FUNCTION pgmq_gateway.browse_archive(
    queue text, after_msg_id bigint, max_messages integer, since timestamptz, until timestamptz,
    filter jsonb
) RETURNS TABLE (
    msg_id bigint, read_ct integer, enqueued_at timestamptz, last_read_at timestamptz,
    vt timestamptz, message jsonb, headers jsonb, relation oid, archived_at timestamptz
) LANGUAGE plpgsql STABLE AS $$
DECLARE
    a_table regclass := pgmq_gateway.archive_table(queue);
BEGIN
    RETURN QUERY EXECUTE format(
        'SELECT %s, 0::oid, m.archived_at FROM %s m WHERE m.msg_id > $1 AND %s
         ORDER BY m.msg_id LIMIT $2',
        pgmq_gateway.columns(a_table), a_table, pgmq_gateway.archive_condition()
    ) USING after_msg_id, max_messages, since, until, filter, NULL::bigint[];
END
$$;

-- Which archived messages `m` are meant, with since, until, filter and ids in $3 to $6.
CREATE FUNCTION pgmq_gateway.archive_condition()
RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT '($3 IS NULL OR m.archived_at >= $3) AND ($4 IS NULL OR m.archived_at < $4)
            AND ($5 IS NULL OR m.message @> $5) AND ($6 IS NULL OR m.msg_id = ANY ($6))'
$$;

-- How many archived messages are meant, at most `max_messages`.
CREATE FUNCTION pgmq_gateway.count_archived(
    queue text, max_messages bigint, since timestamptz, until timestamptz, filter jsonb,
    ids bigint[]
) RETURNS bigint LANGUAGE plpgsql STABLE AS $$
DECLARE
    counted bigint;
BEGIN
    EXECUTE format(
        'SELECT count(*) FROM (SELECT FROM %s m WHERE m.msg_id > $1 AND %s LIMIT $2) c',
        pgmq_gateway.archive_table(queue), pgmq_gateway.archive_condition()
    ) INTO counted USING 0, max_messages, since, until, filter, ids;
    RETURN counted;
END
$$;

-- Moves the next archived messages into a queue, as new ones. `last_id` is where to go on, null when
-- there are no more.
CREATE FUNCTION pgmq_gateway.replay(
    queue text, target text, after_msg_id bigint, max_messages integer, since timestamptz,
    until timestamptz, filter jsonb, ids bigint[], OUT moved integer, OUT last_id bigint
) LANGUAGE plpgsql AS $$
DECLARE
    a_table regclass := pgmq_gateway.archive_table(queue);
    chosen bigint[];
BEGIN
    EXECUTE format(
        'SELECT array_agg(c.msg_id) FROM (
            SELECT m.msg_id FROM %s m WHERE m.msg_id > $1 AND %s
            ORDER BY m.msg_id LIMIT $2 FOR UPDATE SKIP LOCKED) c',
        a_table, pgmq_gateway.archive_condition()
    ) INTO chosen USING after_msg_id, max_messages, since, until, filter, ids;
    moved := pgmq_gateway.move_back(a_table, target, coalesce(chosen, '{}'));
    IF cardinality(chosen) = max_messages THEN
        last_id := chosen[max_messages];
    END IF;
END
$$;
