-- The archive: looking at it, and taking back from it.

-- Archived messages in order of msg_id; with `readable_only`, those that can be written out. At most `max_rows` are
-- looked at (null for any number): where that ends it, the last row is a mark that says where to go on. Of the last id
-- all come, as for peek.
CREATE FUNCTION pgmq_gateway.browse_archive(
    queue text, after_msg_id bigint, max_messages integer, max_rows integer, since timestamptz, until timestamptz,
    filter jsonb, ids bigint[], readable_only boolean
) RETURNS TABLE (
    msg_id bigint, read_ct integer, enqueued_at timestamptz, last_read_at timestamptz,
    vt timestamptz, message jsonb, headers jsonb, queue_id bigint, archived_at timestamptz, is_mark boolean
) LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms' AS $$
DECLARE
    a_table regclass := pgmq_gateway.archive_table(queue);
    bound bigint := pgmq_gateway.step_bound(a_table, after_msg_id, NULL, max_rows);
    found integer;
BEGIN
    PERFORM pgmq_gateway.require_own_session();
    RETURN QUERY EXECUTE format(
        '/* pgmq_gateway */ SELECT %s, 0::bigint, m.archived_at, false FROM %s m
         WHERE m.msg_id > $1 AND ($8 IS NULL OR m.msg_id <= $8) AND %s %s ORDER BY m.msg_id %s',
        pgmq_gateway.columns(a_table), a_table, pgmq_gateway.archive_condition(),
        CASE WHEN readable_only THEN 'AND pgmq_gateway.is_readable($7, m.msg_id)' END,
        pgmq_gateway.page_end(a_table)
    ) USING after_msg_id, max_messages, since, until, filter, ids, a_table, bound;
    GET DIAGNOSTICS found = ROW_COUNT;
    IF found < max_messages AND bound IS NOT NULL THEN
        msg_id := bound;
        is_mark := true;
        RETURN NEXT;
    END IF;
END
$$;

-- The id of the last of the next `max_rows` rows of a table, up to which a step looks; null where there are fewer, or
-- without an index that leads there.
CREATE FUNCTION pgmq_gateway.step_bound(relation regclass, after_msg_id bigint, up_to bigint, max_rows integer)
RETURNS bigint LANGUAGE plpgsql STABLE AS $$
DECLARE
    bound bigint;
BEGIN
    IF max_rows IS NULL OR NOT EXISTS (
        SELECT FROM pg_catalog.pg_index i
        JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
        WHERE i.indrelid = relation AND i.indisvalid AND i.indpred IS NULL AND a.attname = 'msg_id'
    ) THEN
        RETURN NULL;
    END IF;
    EXECUTE format(
        '/* pgmq_gateway */ SELECT m.msg_id FROM %s m WHERE m.msg_id > $1 AND ($2 IS NULL OR m.msg_id <= $2)
         ORDER BY m.msg_id OFFSET $3 - 1 LIMIT 1', relation
    ) INTO bound USING after_msg_id, up_to, max_rows;
    RETURN bound;
END
$$;

-- Which archived messages `m` are meant, with since, until, filter and ids in $3 to $6.
CREATE FUNCTION pgmq_gateway.archive_condition()
RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT '($3 IS NULL OR m.archived_at >= $3) AND ($4 IS NULL OR m.archived_at < $4)
            AND ($5 IS NULL OR m.message @> $5) AND ($6 IS NULL OR m.msg_id = ANY ($6))'
$$;

-- How many archived messages are meant, at most `max_messages`, and among the next `max_rows`, as for browse_archive:
-- `last_id` is where to go on, null when there are no more.
CREATE FUNCTION pgmq_gateway.count_archived(
    queue text, after_msg_id bigint, max_messages bigint, max_rows integer, since timestamptz, until timestamptz,
    filter jsonb, ids bigint[], OUT counted bigint, OUT last_id bigint
) LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms' AS $$
DECLARE
    a_table regclass := pgmq_gateway.archive_table(queue);
BEGIN
    PERFORM pgmq_gateway.require_own_session();
    last_id := pgmq_gateway.step_bound(a_table, after_msg_id, NULL, max_rows);
    EXECUTE format(
        '/* pgmq_gateway */ SELECT count(*) FROM (
            SELECT FROM %s m WHERE m.msg_id > $1 AND ($7 IS NULL OR m.msg_id <= $7) AND %s LIMIT $2) c',
        a_table, pgmq_gateway.archive_condition()
    ) INTO counted USING after_msg_id, max_messages, since, until, filter, ids, last_id;
END
$$;

-- Moves the next archived messages into a queue, as new ones. What the archive does not give or the
-- queue does not take stays: of these `failed` says how many, `failed_code` and `failed_constraint` why.
-- `last_id` is where to go on, null when there are no more: at most `max_rows` are looked at, as for browse_archive.
-- What is archived later than the first step, as it was replayed by it maybe, is behind `up_to`.
CREATE FUNCTION pgmq_gateway.replay(
    queue text, target text, after_msg_id bigint, max_messages integer, max_rows integer, since timestamptz,
    until timestamptz, filter jsonb, ids bigint[], INOUT up_to bigint, OUT moved integer, OUT last_id bigint,
    OUT failed integer, OUT failed_code text, OUT failed_constraint text, OUT failed_queue text
) LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '100ms' AS $$
DECLARE
    a_table regclass := pgmq_gateway.archive_table(queue);
    bound bigint;
    chosen bigint[];
    places text[];
    repeats_ids boolean := pgmq_gateway.repeats_ids(a_table);
BEGIN
    PERFORM pgmq_gateway.require_own_session();
    PERFORM pgmq_gateway.check_at_once();
    IF up_to IS NULL THEN
        EXECUTE format('/* pgmq_gateway */ SELECT coalesce(max(m.msg_id), 0) FROM %s m', a_table) INTO up_to;
    END IF;
    bound := pgmq_gateway.step_bound(a_table, after_msg_id, up_to, max_rows);
    EXECUTE format(
        '/* pgmq_gateway */ SELECT array_agg(c.msg_id), %s FROM (%s) c',
        CASE WHEN repeats_ids THEN 'array_agg(c.place)' ELSE 'NULL::text[]' END,
        pgmq_gateway.rows_of_step(repeats_ids, 'm.msg_id', format(
            '%s m WHERE m.msg_id > $1 AND m.msg_id <= $7 AND %s', a_table, pgmq_gateway.archive_condition()),
            pgmq_gateway.row_lock(a_table))
    ) INTO chosen, places USING after_msg_id, max_messages, since, until, filter, ids, coalesce(bound, up_to);
    SELECT r.moved, r.failed, r.failed_code, r.failed_constraint
    INTO moved, failed, failed_code, failed_constraint
    FROM pgmq_gateway.requeue_each(a_table, target, coalesce(chosen, '{}'), pgmq_gateway.stands_at(places)) r;
    failed_queue := target;
    last_id := CASE WHEN repeats_ids THEN coalesce(pgmq_gateway.end_of_step(chosen, moved), bound)
                    WHEN cardinality(chosen) = max_messages THEN chosen[max_messages] ELSE bound END;
END
$$;

-- The rows of a step that moves at most $2 messages. Where ids are there several times they have the `place` of each,
-- and of a full step those of the last id are left to the next one, which goes on behind an id: unless it has no
-- other.
CREATE FUNCTION pgmq_gateway.rows_of_step(repeats_ids boolean, columns text, rows_from text, row_lock text)
RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN NOT repeats_ids
        THEN format('SELECT %s FROM %s ORDER BY m.msg_id LIMIT $2 %s', columns, rows_from, row_lock)
        ELSE format(
            'SELECT * FROM (
                SELECT c.*, count(*) OVER () = $2 AND c.msg_id = max(c.msg_id) OVER ()
                            AND c.msg_id > min(c.msg_id) OVER () AS is_next
                FROM (SELECT %s, %s AS place FROM %s ORDER BY m.msg_id LIMIT $2 %s) c) c
             WHERE NOT c.is_next ORDER BY c.msg_id',
            columns, replace(pgmq_gateway.place_of_row(), 'q.', 'm.'), rows_from, row_lock) END
$$;

-- The id behind which the next step goes on: null if this one had none. Where all were of one id, there may be more of
-- it; but if none was `moved`, the next step would meet the same.
CREATE FUNCTION pgmq_gateway.end_of_step(ids bigint[], moved integer)
RETURNS bigint LANGUAGE sql IMMUTABLE AS $$
    SELECT max(i.id) - CASE WHEN min(i.id) = max(i.id) AND moved > 0 THEN 1 ELSE 0 END
    FROM unnest(ids) AS i (id)
$$;

-- Moves messages into the archive and returns the ids of those that were moved, which a trigger may have changed
-- there. Those stay for which a `condition` on `q` does not hold. Raises PGW23 if the archive did not take what the
-- queue gave.
CREATE FUNCTION pgmq_gateway.move_to_archive(
    queue text, q_table regclass, ids bigint[], condition text DEFAULT 'true'
) RETURNS bigint[] LANGUAGE plpgsql AS $$
DECLARE
    a_table regclass := pgmq_gateway.archive_table(queue);
    columns text := 'msg_id, vt, read_ct, enqueued_at, message';
    column_name text;
    kept bigint;
    archived bigint[];
    me name := current_user;
    my_role text := current_setting('role');
    my_session name := session_user;
BEGIN
    FOREACH column_name IN ARRAY ARRAY['last_read_at', 'headers'] LOOP
        IF pgmq_gateway.has_column(q_table, column_name)
           AND pgmq_gateway.has_column(a_table, column_name) THEN
            columns := columns || ', ' || column_name;
        END IF;
    END LOOP;
    IF pgmq_gateway.has_rules(q_table) OR pgmq_gateway.has_rules(a_table) THEN
        RETURN pgmq_gateway.move_by_rules(
            q_table, a_table, columns, columns, ids, NULL, NULL, condition);
    END IF;
    EXECUTE format(
        '/* pgmq_gateway */
         WITH gone AS (DELETE FROM %1$s q WHERE q.msg_id = ANY ($1) AND %4$s RETURNING %3$s),
              kept AS (INSERT INTO %2$s (%3$s) SELECT %3$s FROM gone RETURNING msg_id)
         SELECT (SELECT count(*) FROM kept), ARRAY(SELECT g.msg_id FROM gone g)',
        q_table, a_table, columns, condition
    ) INTO kept, archived USING ids;
    -- As in move_rows.
    IF current_user <> me THEN
        PERFORM CASE WHEN session_user <> my_session
                     THEN set_config('session_authorization', my_session, true) END,
                set_config('role', my_role, true);
    END IF;
    IF kept <> cardinality(archived) THEN
        RAISE EXCEPTION 'the archive took % of % messages', kept, cardinality(archived)
            USING ERRCODE = 'PGW23';
    END IF;
    RETURN archived;
END
$$;
