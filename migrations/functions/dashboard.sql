-- What people look at and act on: pages of messages by their state, the health of a queue's table, keys.

-- A page of messages for people to look at, leasing nothing. `source` is what they are: `all`, `waiting`,
-- `in_flight` or `delayed` in the queue, or `archived`. They come in order of msg_id, behind `after_msg_id`; those
-- that are hidden in order of vt, behind `after_vt` too. Those alone that were stored (or archived) within a time,
-- have an id up to `last_id`, contain `filter`, and are dead letters of the queue `origin`. At most `max_rows` are
-- looked at: where that ends the page before it has `max_messages`, the last row is a mark that says where to go
-- on. No time says which ids to begin at: dead letters keep the one at which they were stored, and SQL writes any.
-- What would take long to send is left out of a row; with `ids_only` all of it is.
CREATE FUNCTION pgmq_gateway.browse_messages(
    queue text, source text, after_vt timestamptz, after_msg_id bigint, max_messages integer, max_rows integer,
    since timestamptz, until timestamptz, last_id bigint, filter jsonb, origin text, ids_only boolean
) RETURNS TABLE (
    msg_id bigint, read_ct integer, enqueued_at timestamptz, last_read_at timestamptz, vt timestamptz,
    archived_at timestamptz, message jsonb, headers jsonb, bytes bigint, has_headers boolean, is_mark boolean
) LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms' AS $$
DECLARE
    is_archive boolean := source = 'archived';
    relation regclass := CASE WHEN source = 'archived' THEN pgmq_gateway.archive_table(queue)
                              ELSE pgmq_gateway.queue_table(queue) END;
    is_hidden boolean := source IN ('in_flight', 'delayed');
    rows_from text;
    sorted text := CASE WHEN source IN ('in_flight', 'delayed') THEN 'm.vt, m.msg_id' ELSE 'm.msg_id' END;
    found integer;
BEGIN
    PERFORM pgmq_gateway.require_own_session();
    rows_from := format(
        'FROM (SELECT %s, %s FROM %s m WHERE %s ORDER BY %s LIMIT $6)
              m (msg_id, read_ct, enqueued_at, last_read_at, vt, message, headers, archived_at)',
        pgmq_gateway.columns(relation),
        CASE WHEN is_archive THEN 'm.archived_at' ELSE 'NULL::timestamptz' END,
        relation,
        CASE WHEN is_hidden
             THEN 'm.vt > statement_timestamp() AND ($1 IS NULL OR m.vt >= $1 AND (m.vt, m.msg_id) > ($1, $2))'
             ELSE 'm.msg_id > $2 AND ($7 IS NULL OR m.msg_id <= $7)' END,
        sorted);
    RETURN QUERY EXECUTE format(
        -- What is not there, though every message has it, keeps none from being seen.
        '/* pgmq_gateway */ SELECT m.msg_id, coalesce(m.read_ct, 0), coalesce(m.enqueued_at, ''-infinity''),
                m.last_read_at, coalesce(m.vt, ''infinity''), m.archived_at,
                CASE WHEN m.message IS NULL THEN ''null''
                     WHEN pgmq_gateway.is_small(m.message, $10) THEN m.message END,
                CASE WHEN pgmq_gateway.is_small(m.headers, $10) THEN m.headers END,
                pg_column_size(m.message)::bigint, m.headers IS NOT NULL, false
         %1$s WHERE %2$s AND ($3 IS NULL OR %4$s >= $3) AND ($4 IS NULL OR %4$s < $4)
            AND ($7 IS NULL OR m.msg_id <= $7) AND ($8 IS NULL OR m.message @> $8)
            AND ($9 IS NULL OR m.headers @> jsonb_build_object(''x-dead-letter-queue'', $9))
         ORDER BY %3$s %5$s',
        rows_from,
        CASE source WHEN 'waiting' THEN 'm.vt <= statement_timestamp()'
                    WHEN 'in_flight' THEN 'm.read_ct > 0'
                    WHEN 'delayed' THEN 'm.read_ct = 0' ELSE 'true' END,
        sorted, format('coalesce(m.%I, ''-infinity'')', CASE WHEN is_archive THEN 'archived_at' ELSE 'enqueued_at' END),
        replace(pgmq_gateway.page_end(relation), '$2', '$5')
    ) USING after_vt, after_msg_id, since, until, max_messages, max_rows, last_id, filter, origin, ids_only;
    GET DIAGNOSTICS found = ROW_COUNT;
    IF found < max_messages THEN
        RETURN QUERY EXECUTE format(
            '/* pgmq_gateway */ SELECT m.msg_id, 0, coalesce(m.enqueued_at, ''-infinity''), NULL::timestamptz,
                    coalesce(m.vt, ''infinity''), NULL::timestamptz, NULL::jsonb,
                    NULL::jsonb, 0::bigint, false, true %s ORDER BY %s OFFSET $6 - 1 LIMIT 1', rows_from, sorted
        ) USING after_vt, after_msg_id, NULL::timestamptz, NULL::timestamptz, 0, max_rows, last_id;
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

-- As redrive, for those of these dead letters alone that nobody has in hand, each to the queue that it came from.
CREATE FUNCTION pgmq_gateway.redrive_these(
    queue text, ids bigint[], allowed_queues text,
    OUT moved integer, OUT last_id bigint, OUT failed integer, OUT failed_code text, OUT failed_constraint text,
    OUT failed_queue text
) LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '100ms' AS $$
DECLARE
    source regclass := pgmq_gateway.queue_table(queue);
    batch record;
    step record;
    repeats_ids boolean := pgmq_gateway.repeats_ids(source);
BEGIN
    PERFORM pgmq_gateway.require_own_session();
    moved := 0;
    failed := 0;
    PERFORM pgmq_gateway.check_at_once();
    IF NOT pgmq_gateway.has_column(source, 'headers') THEN
        PERFORM pgmq_gateway.need_headers('a redrive without `to` needs');
    END IF;
    FOR batch IN EXECUTE format(
        '/* pgmq_gateway */ SELECT c.origin, array_agg(c.msg_id) AS ids, %s AS places FROM (
            SELECT q.headers ->> ''x-dead-letter-queue'' AS origin, q.msg_id, %s AS place FROM %s q
            WHERE q.msg_id = ANY ($1) AND q.vt <= statement_timestamp()
            ORDER BY q.msg_id %s) c
         GROUP BY c.origin ORDER BY c.origin',
        CASE WHEN repeats_ids THEN 'array_agg(c.place)' ELSE 'NULL::text[]' END,
        CASE WHEN repeats_ids THEN pgmq_gateway.place_of_row() ELSE 'NULL' END, source,
        pgmq_gateway.row_lock(source)
    ) USING ids LOOP
        CONTINUE WHEN batch.origin IS NULL OR batch.origin = queue
                   OR NOT EXISTS (SELECT FROM pgmq.meta m WHERE m.queue_name = batch.origin);
        IF (allowed_queues IS NULL OR batch.origin ~ allowed_queues)
           AND pgmq_gateway.find_queue_table(batch.origin) IS NOT NULL THEN
            step := pgmq_gateway.requeue_each(
                source, batch.origin, batch.ids,
                'q.vt <= statement_timestamp() AND ' || pgmq_gateway.stands_at(batch.places));
            moved := moved + step.moved;
            failed := failed + step.failed;
            IF failed_code IS NULL THEN
                failed_queue := pgmq_gateway.as_text(batch.origin);
            END IF;
            failed_code := coalesce(failed_code, step.failed_code);
            failed_constraint := coalesce(failed_constraint, step.failed_constraint);
        END IF;
    END LOOP;
END
$$;

-- How the table of a queue is, as far as PostgreSQL's statistics tell: rows that are dead are read past by every
-- receive until a vacuum takes them away.
CREATE FUNCTION pgmq_gateway.table_health(
    queue text, OUT live_rows bigint, OUT dead_rows bigint, OUT total_bytes bigint, OUT archive_bytes bigint,
    OUT last_vacuum timestamptz, OUT last_analyze timestamptz, OUT vacuums bigint
) LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms' AS $$
DECLARE
    q_table regclass := pgmq_gateway.queue_table(queue);
    a_table regclass := to_regclass(format('pgmq.%I', pgmq.format_table_name(queue, 'a')));
BEGIN
    -- Of a partitioned one, its parts.
    SELECT sum(s.n_live_tup), sum(s.n_dead_tup), sum(pg_total_relation_size(p.relid)),
           max(greatest(s.last_vacuum, s.last_autovacuum)), max(greatest(s.last_analyze, s.last_autoanalyze)),
           sum(s.vacuum_count + s.autovacuum_count)
    INTO live_rows, dead_rows, total_bytes, last_vacuum, last_analyze, vacuums
    FROM (SELECT q_table AS relid UNION SELECT t.relid FROM pg_partition_tree(q_table) t) p
    LEFT JOIN pg_stat_user_tables s ON s.relid = p.relid;
    SELECT sum(pg_total_relation_size(p.relid)) INTO archive_bytes
    FROM (SELECT a_table AS relid UNION SELECT t.relid FROM pg_partition_tree(a_table) t) p
    WHERE a_table IS NOT NULL;
END
$$;

-- Who keeps a vacuum from taking away dead rows, the oldest first: sessions, replication slots and prepared
-- transactions that may still have to see them. Of other roles' sessions only those of pg_read_all_stats see some.
CREATE FUNCTION pgmq_gateway.cleanup_holders(max_rows integer)
RETURNS TABLE (kind text, name text, state text, transactions bigint, since timestamptz) LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms' AS $$
BEGIN
    RETURN QUERY
    SELECT h.kind, pgmq_gateway.as_text(h.name), h.state, h.transactions, h.since FROM (
        SELECT 'session' AS kind,
               format('%s %s (pid %s)', a.usename, nullif(a.application_name, ''), a.pid) AS name, a.state,
               age(coalesce(a.backend_xmin, a.backend_xid))::bigint AS transactions, a.xact_start AS since
        FROM pg_stat_activity a
        WHERE coalesce(a.backend_xmin, a.backend_xid) IS NOT NULL AND a.pid <> pg_backend_pid()
          AND a.xact_start < statement_timestamp() - interval '1 second'
        UNION ALL
        SELECT 'replication slot', s.slot_name::text, CASE WHEN s.active THEN 'active' ELSE 'inactive' END,
               age(s.xmin)::bigint, NULL
        FROM pg_replication_slots s WHERE s.xmin IS NOT NULL
        UNION ALL
        SELECT 'prepared transaction', p.gid, 'prepared', age(p.transaction)::bigint, p.prepared
        FROM pg_prepared_xacts p
        UNION ALL
        SELECT 'standby', format('%s %s', r.usename, r.application_name), r.state, age(r.backend_xmin)::bigint, NULL
        FROM pg_stat_replication r WHERE r.backend_xmin IS NOT NULL) h
    ORDER BY h.transactions DESC, h.kind, h.name LIMIT max_rows;
END
$$;

-- The keys as people are shown them: never what they are.
CREATE FUNCTION pgmq_gateway.shown_keys(max_rows integer)
RETURNS TABLE (
    id text, name text, grants text[], created_at timestamptz, expires_at timestamptz, expired boolean,
    revoked_at timestamptz, last_used_at timestamptz, makes_sense boolean
) LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms' AS $$
BEGIN
    RETURN QUERY
    SELECT pgmq_gateway.as_text(k.id), pgmq_gateway.as_text(k.name),
           ARRAY(SELECT coalesce(pgmq_gateway.as_text(g), '') FROM unnest(k.grants) g), k.created_at,
           nullif(k.expires_at, 'infinity'), coalesce(k.expires_at <= now(), false), k.revoked_at, k.last_used_at,
           pgmq_gateway.key_makes_sense(k.id, k.name, k.hash, k.grants, k.requests_per_second, k.max_waiters)
    FROM pgmq_gateway.api_keys k ORDER BY k.revoked_at IS NOT NULL, k.created_at DESC, k.id LIMIT max_rows;
END
$$;
