-- Making, changing, listing and dropping queues, and their figures.

-- Makes a queue, once: `outcome` is `created`, `exists` (alike), `differs` (another kind, in
-- `existing`), `partition_differs`, `folds` (onto the queue in `existing`) or `no_partman`.
CREATE FUNCTION pgmq_gateway.create_queue(
    queue text, kind text, partition_interval text, retention text,
    OUT outcome text, OUT existing text
) LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    partman text := (SELECT quote_ident(n.nspname) FROM pg_extension e
                     JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'pg_partman');
    q_table text := pgmq.format_table_name(queue, 'q');
    alike boolean;
BEGIN
    PERFORM pgmq_gateway.lock_queue(queue);
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
            EXECUTE format(
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
    -- PGMQ makes these only if there are none, and then takes what there is for its own.
    SELECT c.relname INTO existing FROM pg_catalog.pg_class c
    WHERE c.relnamespace = 'pgmq'::regnamespace
      AND c.relname IN (q_table, pgmq.format_table_name(queue, 'a'), q_table || '_vt_idx',
                        q_table || '_msg_id_seq', 'archived_at_idx_' || queue) LIMIT 1;
    IF existing IS NOT NULL THEN
        outcome := 'taken';
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

-- Makes a queue, once, with all that belongs to it. Of one that is there nothing is changed. As
-- create_queue for the outcome.
CREATE FUNCTION pgmq_gateway.put_queue(
    queue text, kind text, partition_interval text, retention text, fifo boolean, wishes jsonb,
    OUT outcome text, OUT existing text
) LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '100ms' AS $$
DECLARE
    sequence text;
BEGIN
    SELECT c.outcome, c.existing INTO outcome, existing
    FROM pgmq_gateway.create_queue(queue, kind, partition_interval, retention) c;
    IF outcome <> 'created' THEN
        RETURN;
    END IF;
    -- Of an unlogged table the ids would begin anew after a crash, beside an archive and receipts
    -- that know the old ones.
    IF kind = 'unlogged' AND current_setting('server_version_num')::integer >= 150000 THEN
        sequence := pg_get_serial_sequence(
            format('pgmq.%I', pgmq.format_table_name(queue, 'q')), 'msg_id');
        EXECUTE format('ALTER SEQUENCE %s SET LOGGED', sequence);
    END IF;
    IF fifo THEN
        PERFORM pgmq_gateway.add_fifo_index(queue);
    END IF;
    PERFORM pgmq_gateway.register_queue(queue);
    UPDATE pgmq_gateway.queue_settings s SET fifo = put_queue.fifo WHERE s.queue_name = queue;
    IF wishes <> '{}' THEN
        PERFORM pgmq_gateway.change_settings(queue, wishes);
    END IF;
END
$$;

-- Drops a queue with what belongs to it; false where there is none of exactly this name. A name of
-- which the table is gone already is forgotten, and so is every other name of the table. Raises PGW33
-- where the role may not drop the tables, which PGMQ only notices.
CREATE FUNCTION pgmq_gateway.drop_queue(queue text)
RETURNS boolean LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp SET lock_timeout = '100ms' AS $$
DECLARE
    a_table text := format('pgmq.%I', pgmq.format_table_name(queue, 'a'));
    partitioned boolean;
BEGIN
    PERFORM pgmq_gateway.lock_queue(queue);
    SELECT m.is_partitioned INTO partitioned FROM pgmq.meta m WHERE m.queue_name = queue;
    IF partitioned IS NULL THEN
        RETURN false;
    END IF;
    IF pgmq_gateway.find_queue_table(queue) IS NULL THEN
        -- PGMQ leaves the archive of a queue whose table is gone.
        IF pgmq_gateway.is_whole_table(to_regclass(a_table)) THEN
            EXECUTE format('DROP TABLE %s', a_table);
        END IF;
    ELSIF to_regprocedure('pgmq.drop_queue(text)') IS NOT NULL THEN
        PERFORM pgmq.drop_queue(queue);
    ELSE
        PERFORM pgmq.drop_queue(queue, partitioned);
    END IF;
    DELETE FROM pgmq_gateway.queue_settings s WHERE lower(s.queue_name) = lower(queue);
    DELETE FROM pgmq.meta m WHERE lower(m.queue_name) = lower(queue);
    IF pgmq_gateway.find_queue_table(queue) IS NOT NULL
       OR pgmq_gateway.is_whole_table(to_regclass(a_table))
       OR EXISTS (SELECT FROM pgmq.meta m WHERE lower(m.queue_name) = lower(queue)) THEN
        RAISE EXCEPTION 'DROP of the tables of %', queue USING ERRCODE = 'PGW33';
    END IF;
    RETURN true;
END
$$;

-- Empties a queue at once, and says how many messages there were; null where that would pass by policies
-- and triggers, the role may not, or somebody is at the table: then the messages are to be deleted.
-- Locked from the beginning: what comes after the counting would go uncounted.
CREATE FUNCTION pgmq_gateway.truncate_queue(queue text)
RETURNS bigint LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '100ms' AS $$
DECLARE
    q_table regclass := pgmq_gateway.queue_table(queue);
BEGIN
    IF row_security_active(q_table) OR NOT has_table_privilege(q_table, 'TRUNCATE')
       OR EXISTS (SELECT FROM pg_catalog.pg_trigger t WHERE t.tgrelid = q_table AND NOT t.tgisinternal
                  -- 8: delete; 32: truncate.
                  AND t.tgtype & 40 <> 0)
       OR EXISTS (SELECT FROM pg_catalog.pg_constraint c WHERE c.confrelid = q_table) THEN
        RETURN NULL;
    END IF;
    EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', q_table);
    RETURN pgmq.purge_queue(queue);
EXCEPTION WHEN lock_not_available THEN
    RETURN NULL;
END
$$;

-- The last id of a queue, 0 where there is none.
CREATE FUNCTION pgmq_gateway.last_id(queue text)
RETURNS bigint LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms' AS $$
DECLARE
    last bigint;
BEGIN
    EXECUTE format('SELECT max(q.msg_id) FROM %s q', pgmq_gateway.queue_table(queue)) INTO last;
    RETURN coalesce(last, 0);
END
$$;

-- Deletes the next messages of a queue, up to the id `up_to`, and says how many; `last_id` is where to go
-- on, null at the end. What is locked, or kept by a policy or a trigger, stays.
CREATE FUNCTION pgmq_gateway.delete_next(
    queue text, after_msg_id bigint, up_to bigint, max_messages integer,
    OUT deleted bigint, OUT last_id bigint
) LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '100ms' AS $$
DECLARE
    q_table regclass := pgmq_gateway.queue_table(queue);
    ids bigint[];
BEGIN
    EXECUTE format('SELECT array_agg(n.msg_id) FROM (
                        SELECT q.msg_id FROM %s q WHERE q.msg_id > $1 AND q.msg_id <= $2
                        ORDER BY q.msg_id LIMIT $3) n', q_table)
    INTO ids USING after_msg_id, up_to, max_messages;
    deleted := (pgmq_gateway.delete_rows(q_table, coalesce(ids, '{}'))).deleted;
    last_id := CASE WHEN cardinality(ids) = max_messages THEN ids[max_messages] END;
END
$$;

-- Deletes rows of a table by their ids, as far as nobody has them locked. `kept` counts those that a
-- policy, a trigger or a constraint keeps, `kept_code` says with which error one of them does.
CREATE FUNCTION pgmq_gateway.delete_rows(
    relation regclass, ids bigint[], OUT deleted bigint, OUT kept bigint, OUT kept_code text
) LANGUAGE plpgsql AS $$
DECLARE
    statement text := format('DELETE FROM %s m WHERE m.msg_id = ANY ($1)', relation);
    free bigint[];
    more bigint;
    id bigint;
BEGIN
    PERFORM pgmq_gateway.require_privilege(relation, 'DELETE');
    EXECUTE format(
        'SELECT coalesce(array_agg(f.msg_id), ''{}'') FROM (
             SELECT q.msg_id FROM %s q WHERE q.msg_id = ANY ($1) FOR UPDATE SKIP LOCKED) f', relation
    ) INTO free USING ids;
    BEGIN
        EXECUTE statement USING free;
        GET DIAGNOSTICS deleted = ROW_COUNT;
    EXCEPTION WHEN OTHERS THEN
        IF NOT pgmq_gateway.is_about_a_row(SQLSTATE) THEN
            RAISE;
        END IF;
        kept_code := SQLSTATE;
    END;
    IF deleted IS NULL THEN
        deleted := 0;
        FOREACH id IN ARRAY free LOOP
            BEGIN
                EXECUTE statement USING ARRAY[id];
                GET DIAGNOSTICS more = ROW_COUNT;
                deleted := deleted + more;
            EXCEPTION WHEN OTHERS THEN
                IF NOT pgmq_gateway.is_about_a_row(SQLSTATE) THEN
                    RAISE;
                END IF;
                kept_code := SQLSTATE;
            END;
        END LOOP;
    END IF;
    -- What a policy does not let this role lock looks as if somebody else had.
    kept := cardinality(CASE WHEN row_security_active(relation) THEN ids ELSE free END) - deleted;
END
$$;

-- Queues whose names begin with `prefix` and come behind `after`, in order of their names' bytes; or
-- the `only_queue` one. `notify_ms` is the throttle of PGMQ's insert notifications where they are on;
-- PGMQ forgets it when the server crashes. `row_security` says that policies hide rows from this role.
CREATE FUNCTION pgmq_gateway.list_queues(prefix text, after text, max_queues bigint, only_queue text)
RETURNS TABLE (
    queue text, is_partitioned boolean, is_unlogged boolean, created_at timestamptz, fifo boolean,
    settings jsonb, notify_ms integer, row_security boolean
) LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms' AS $$
DECLARE
    -- Without the table there is no throttle.
    throttle text := '0';
BEGIN
    IF to_regclass('pgmq.notify_insert_throttle') IS NOT NULL THEN
        throttle := 'coalesce((SELECT n.throttle_interval_ms FROM pgmq.notify_insert_throttle n
                               WHERE n.queue_name = m.queue_name),
                              (s.settings #>> ''{notify,throttle_ms}'')::integer, 250)';
    END IF;
    RETURN QUERY EXECUTE format(
        $query$
        SELECT m.queue_name::text, m.is_partitioned, m.is_unlogged, m.created_at,
               pgmq_gateway.has_fifo_index(m.relation), s.settings,
               CASE WHEN t.oid IS NOT NULL THEN %s END,
               coalesce(row_security_active(m.relation), false)
        FROM (SELECT *, to_regclass(format('pgmq.%%I', pgmq.format_table_name(queue_name, 'q')))::oid
                        AS relation
              FROM pgmq.meta
              WHERE ($4 IS NULL OR queue_name = $4) AND starts_with(queue_name::text, $1)
                AND ($2 IS NULL OR queue_name::text COLLATE "C" > $2)
              ORDER BY queue_name::text COLLATE "C" LIMIT $3) m
        LEFT JOIN pgmq_gateway.queue_settings s
               ON s.queue_name = m.queue_name
              AND (s.bound_created_at = m.created_at
                   OR s.database_stamp IS DISTINCT FROM pgmq_gateway.database_stamp())
        LEFT JOIN pg_catalog.pg_trigger t
               ON t.tgrelid = m.relation AND t.tgname = 'trigger_notify_queue_insert_listeners'
        ORDER BY m.queue_name::text COLLATE "C"
        $query$, throttle
    ) USING prefix, after, max_queues, only_queue;
END
$$;

-- Whether PGMQ knows a queue by exactly this name.
CREATE FUNCTION pgmq_gateway.queue_exists(queue text)
RETURNS boolean LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms' AS $$
BEGIN
    RETURN EXISTS (SELECT FROM pgmq.meta m WHERE m.queue_name = queue);
END
$$;

-- The names of all queues.
CREATE FUNCTION pgmq_gateway.queue_names()
RETURNS TABLE (queue text) LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms' AS $$
BEGIN
    RETURN QUERY SELECT m.queue_name::text FROM pgmq.meta m;
END
$$;

-- The settings of all queues that have some, are read in groups, or have a table of another name.
CREATE FUNCTION pgmq_gateway.all_settings()
RETURNS TABLE (queue text, settings jsonb, fifo boolean) LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms' AS $$
BEGIN
    RETURN QUERY SELECT s.queue_name, s.settings, s.fifo
                 FROM pgmq_gateway.queue_settings s
                 JOIN pgmq.meta m ON m.queue_name = s.queue_name
                  AND (s.bound_created_at = m.created_at
                       OR s.database_stamp IS DISTINCT FROM pgmq_gateway.database_stamp())
                 WHERE s.settings <> '{}' OR s.fifo
                 UNION ALL
                 SELECT m.queue_name::text, '{}', false FROM pgmq.meta m
                 WHERE m.queue_name <> lower(m.queue_name)
                   AND NOT EXISTS (SELECT FROM pgmq_gateway.queue_settings s
                                   WHERE s.queue_name = m.queue_name
                                     AND (s.settings <> '{}' OR s.fifo));
END
$$;

-- Writes down which queue has a name now, unless that is known. What was written down for an earlier
-- queue of this name is forgotten; what came here from another database counts for the queue that has the
-- name here.
CREATE FUNCTION pgmq_gateway.register_queue(queue text)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO pgmq_gateway.queue_settings AS s (
        queue_name, queue_created_at, bound_created_at, database_stamp, settings)
    SELECT m.queue_name, m.created_at, m.created_at, pgmq_gateway.database_stamp(), '{}'
    FROM pgmq.meta m WHERE m.queue_name = queue
    ON CONFLICT (queue_name) DO UPDATE
    SET bound_created_at = excluded.bound_created_at,
        database_stamp = excluded.database_stamp,
        queue_created_at = CASE WHEN s.database_stamp = excluded.database_stamp
                                THEN excluded.queue_created_at ELSE s.queue_created_at END,
        settings = CASE WHEN s.database_stamp = excluded.database_stamp THEN '{}' ELSE s.settings END,
        fifo = CASE WHEN s.database_stamp = excluded.database_stamp THEN false ELSE s.fifo END,
        retention_cursor = 0
    WHERE s.bound_created_at <> excluded.bound_created_at
       OR s.database_stamp <> excluded.database_stamp;
END
$$;

-- Changes those settings of a queue that are in `wishes`, null for the default. False where there
-- is no such queue. One change after the other: PGMQ's notifications cannot be turned on by two at once.
CREATE FUNCTION pgmq_gateway.change_settings(queue text, wishes jsonb)
RETURNS boolean LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp SET lock_timeout = '100ms' AS $$
BEGIN
    PERFORM pgmq_gateway.lock_queue(queue);
    PERFORM FROM pgmq.meta m WHERE m.queue_name = queue;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    IF wishes ? 'notify' THEN
        PERFORM pgmq_gateway.set_notify(queue, (wishes #>> '{notify,throttle_ms}')::integer);
    END IF;
    PERFORM pgmq_gateway.register_queue(queue);
    UPDATE pgmq_gateway.queue_settings s
    SET settings = jsonb_strip_nulls(s.settings || wishes), retention_cursor = 0
    WHERE s.queue_name = queue;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'UPDATE of the settings of %', queue USING ERRCODE = 'PGW33';
    END IF;
    RETURN true;
END
$$;

-- Turns PGMQ's insert notifications on, at most one in so many milliseconds, or off.
CREATE FUNCTION pgmq_gateway.set_notify(queue text, throttle_ms integer)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    -- Neither is asked for what is so already: both lock the table.
    is_now integer := (SELECT q.notify_ms FROM pgmq_gateway.list_queues('', NULL, 1, queue) q);
BEGIN
    IF throttle_ms IS NOT DISTINCT FROM is_now THEN
        PERFORM pgmq_gateway.restore_notify_throttles();
        RETURN;
    ELSIF throttle_ms IS NULL THEN
        PERFORM pgmq.disable_notify_insert(queue);
    ELSIF to_regprocedure('pgmq.enable_notify_insert(text, integer)') IS NOT NULL THEN
        PERFORM pgmq.enable_notify_insert(queue, throttle_ms);
    ELSIF to_regprocedure('pgmq.enable_notify_insert(text)') IS NULL THEN
        RAISE EXCEPTION 'insert notifications need PGMQ 1.6.0 or later' USING ERRCODE = 'PGW01';
    ELSIF throttle_ms > 0 THEN
        RAISE EXCEPTION 'throttled insert notifications need PGMQ 1.8.0 or later'
            USING ERRCODE = 'PGW01';
    ELSE
        PERFORM pgmq.enable_notify_insert(queue);
    END IF;
    is_now := (SELECT q.notify_ms FROM pgmq_gateway.list_queues('', NULL, 1, queue) q);
    IF throttle_ms IS DISTINCT FROM is_now THEN
        RAISE EXCEPTION 'the notifications of %', queue USING ERRCODE = 'PGW33';
    END IF;
END
$$;

-- pgmq.metrics, without what older PGMQs lack, and how many messages were delivered and are still hidden.
CREATE FUNCTION pgmq_gateway.metrics(
    queue text, OUT queue_length bigint, OUT queue_visible_length bigint, OUT in_flight bigint,
    OUT newest_msg_age_sec integer, OUT oldest_msg_age_sec integer, OUT total_messages bigint,
    OUT scrape_time timestamptz
) LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms' AS $$
DECLARE
    sequence text;
BEGIN
    EXECUTE format(
        'SELECT count(*), count(*) FILTER (WHERE m.vt <= now()),
                count(*) FILTER (WHERE m.vt > now() AND m.read_ct > 0),
                extract(epoch FROM now() - max(m.enqueued_at) FILTER (WHERE isfinite(m.enqueued_at)))::integer,
                extract(epoch FROM now() - min(m.enqueued_at) FILTER (WHERE isfinite(m.enqueued_at)))::integer,
                now()
         FROM %s m', pgmq_gateway.queue_table(queue)
    ) INTO queue_length, queue_visible_length, in_flight, newest_msg_age_sec, oldest_msg_age_sec,
           scrape_time;
    sequence := pg_get_serial_sequence(
        format('pgmq.%I', pgmq.format_table_name(queue, 'q')), 'msg_id');
    IF sequence IS NOT NULL THEN
        EXECUTE format('SELECT CASE WHEN s.is_called THEN s.last_value ELSE 0 END FROM %s s', sequence)
        INTO total_messages;
    END IF;
    total_messages := coalesce(total_messages, 0);
END
$$;

-- The figures of a queue at a bounded cost: at most `count_limit` rows are counted, beyond that
-- the length is the estimate that PostgreSQL keeps.
CREATE FUNCTION pgmq_gateway.queue_figures(
    queue text, count_limit integer, OUT length bigint, OUT visible bigint, OUT oldest_age float8
) LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    q_table regclass := pgmq_gateway.queue_table(queue);
    -- The column with an index that grows with time: a partitioned queue may lack one on msg_id.
    time_order name := coalesce(
        (SELECT a.attname FROM pg_partitioned_table p
         JOIN pg_attribute a ON a.attrelid = p.partrelid AND a.attnum = p.partattrs[0]
         WHERE p.partrelid = q_table), 'msg_id');
BEGIN
    EXECUTE pg_catalog.format(
        $query$
        SELECT (SELECT count(*) FROM (SELECT FROM %1$s LIMIT $1 + 1) some_rows),
               (SELECT count(*) FROM (SELECT FROM %1$s m WHERE m.vt <= now() LIMIT $1 + 1) v),
               (SELECT extract(epoch FROM now() - m.enqueued_at)
                FROM %1$s m ORDER BY m.%2$I LIMIT 1)
        $query$, q_table, time_order
    ) INTO length, visible, oldest_age USING count_limit;
    IF length <= count_limit THEN
        RETURN;
    END IF;
    -- A partitioned table has no rows of its own: its partitions have.
    EXECUTE (
        $query$
        SELECT greatest($1, sum(pg_stat_get_live_tuples(relid)))
        FROM (SELECT relid FROM pg_partition_tree($2) UNION SELECT $2) part
        $query$
    ) INTO length USING length, q_table;
    -- What is hidden is usually little; what is visible is then most of the length.
    IF visible > count_limit THEN
        EXECUTE pg_catalog.format(
            'SELECT greatest($1, $2 - count(*))
             FROM (SELECT FROM %s m WHERE m.vt > now() LIMIT $3) hidden', q_table
        ) INTO visible USING visible, length, count_limit;
    END IF;
END
$$;

-- For queues in which somebody waits: whether there is something to be had, when there will be, and
-- whether PGMQ's own insert notifications are on. A queue that is gone counts as ready, so that
-- those who wait learn of it. The oldest entry of the index on vt tells it all.
CREATE FUNCTION pgmq_gateway.sweep(queues text[])
RETURNS TABLE (queue text, ready boolean, due_in float8, notifies boolean) LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp SET lock_timeout = '20ms' AS $$
DECLARE
    relation regclass;
BEGIN
    FOREACH queue IN ARRAY queues LOOP
        relation := to_regclass(format('pgmq.%I', pgmq.format_table_name(queue, 'q')));
        due_in := NULL;
        notifies := false;
        IF NOT pgmq_gateway.is_whole_table(relation) THEN
            ready := true;
        ELSE
            EXECUTE format(
                'SELECT pgmq_gateway.seconds_until(q.vt) FROM %s q
                 ORDER BY q.vt LIMIT 1', relation
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
