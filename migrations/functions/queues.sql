-- Listing and dropping queues, and their figures.

-- Drops a queue with what belongs to it; false where there is none of exactly this name. A name of
-- which the table is gone already is forgotten, and so is every other name of the table. Raises PGW33
-- where the role may not drop the tables, which PGMQ only notices. Unless it is `forced`, one stays to which
-- dead letters of other queues go, whose names are `used_by`. So does one that has something else than a table of
-- its own, such as a view, which is `in_the_way`.
CREATE FUNCTION pgmq_gateway.drop_queue(
    queue text, forced boolean, OUT dropped boolean, OUT used_by text[], OUT in_the_way text
) LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp SET lock_timeout = '100ms' AS $$
DECLARE
    a_table text := format('pgmq.%I', pgmq.format_table_name(queue, 'a'));
    q_table regclass := to_regclass(format('pgmq.%I', pgmq.format_table_name(queue, 'q')));
    partitioned boolean;
    is_marked boolean;
BEGIN
    PERFORM pgmq_gateway.require_own_session();
    PERFORM pgmq_gateway.lock_queue(queue);
    SELECT coalesce(m.is_partitioned,
                    (SELECT c.relkind = 'p' FROM pg_catalog.pg_class c WHERE c.oid = q_table), false)
    INTO partitioned FROM pgmq.meta m WHERE m.queue_name = queue;
    dropped := false;
    used_by := CASE WHEN partitioned IS NOT NULL THEN pgmq_gateway.dead_letter_sources(queue) END;
    IF partitioned IS NULL THEN
        PERFORM pgmq_gateway.require_shown(queue);
    END IF;
    IF partitioned IS NULL OR (used_by <> '{}' AND NOT forced) THEN
        RETURN;
    END IF;
    SELECT min(c.relname) INTO in_the_way FROM pg_catalog.pg_class c
    WHERE c.relnamespace = 'pgmq'::regnamespace
      AND c.relname IN (pgmq.format_table_name(queue, 'q'), pgmq.format_table_name(queue, 'a'))
      AND NOT pgmq_gateway.is_whole_table(c.oid)
      -- A partition of another queue stays that queue's: what is dropped is a name that SQL gave it.
      AND NOT EXISTS (SELECT FROM pg_catalog.pg_inherits i JOIN pg_catalog.pg_class p ON p.oid = i.inhparent
                      WHERE i.inhrelid = c.oid AND p.relnamespace = c.relnamespace);
    IF in_the_way IS NOT NULL THEN
        RETURN;
    END IF;
    is_marked := partitioned;
    partitioned := partitioned AND EXISTS (SELECT FROM pg_catalog.pg_extension WHERE extname = 'pg_partman');
    IF pgmq_gateway.find_queue_table(queue) IS NULL THEN
        -- PGMQ leaves the archive of a queue whose table is gone.
        IF pgmq_gateway.is_whole_table(to_regclass(a_table)) THEN
            EXECUTE format('DROP TABLE %s', a_table);
        END IF;
    ELSIF to_regprocedure('pgmq.drop_queue(text)') IS NOT NULL THEN
        -- PGMQ would ask pg_partman, which is not there any more. Without need that would take a right.
        IF is_marked AND NOT partitioned THEN
            UPDATE pgmq.meta m SET is_partitioned = false WHERE m.queue_name = queue;
        END IF;
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
    PERFORM pgmq_gateway.require_unbound(queue);
    dropped := true;
END
$$;

-- Raises PGW23 where a queue that is gone has bindings all the same, as a trigger keeps them: the next queue of its
-- name would get what is published to them.
CREATE FUNCTION pgmq_gateway.require_unbound(queue text)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF to_regclass('pgmq.topic_bindings') IS NOT NULL
       AND has_column_privilege('pgmq.topic_bindings', 'queue_name', 'SELECT') THEN
        IF EXISTS (SELECT FROM pgmq.topic_bindings b WHERE lower(b.queue_name) = lower(queue)) THEN
            -- Without the foreign key that PGMQ has, nobody has tried.
            DELETE FROM pgmq.topic_bindings b WHERE lower(b.queue_name) = lower(queue);
        END IF;
        IF EXISTS (SELECT FROM pgmq.topic_bindings b WHERE lower(b.queue_name) = lower(queue)) THEN
            RAISE EXCEPTION 'DELETE on pgmq.topic_bindings' USING ERRCODE = 'PGW23';
        END IF;
    END IF;
END
$$;

-- The names of the queues whose dead letters go to a queue.
CREATE FUNCTION pgmq_gateway.dead_letter_sources(queue text)
RETURNS text[] LANGUAGE sql STABLE AS $$
    SELECT coalesce(array_agg(pgmq_gateway.as_text(s.queue_name) ORDER BY s.queue_name), '{}')
    FROM pgmq_gateway.queue_settings s
    JOIN pgmq.meta m ON m.queue_name = s.queue_name
     AND pgmq_gateway.counts_for(s.bound_created_at, s.database_stamp, s.missing_since, m.created_at)
    WHERE s.settings ->> 'dead_letter_queue' = queue AND s.queue_name <> queue
$$;

-- Whether PGMQ knows a queue by exactly this name, and its table is there.
CREATE FUNCTION pgmq_gateway.queue_exists(queue text)
RETURNS boolean LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms' AS $$
BEGIN
    RETURN EXISTS (SELECT FROM pgmq.meta m WHERE m.queue_name = queue)
        AND pgmq_gateway.find_queue_table(queue) IS NOT NULL;
END
$$;

-- The same for those who take it for missing otherwise. Raises PGW34 where it is hidden.
CREATE FUNCTION pgmq_gateway.is_known_queue(queue text)
RETURNS boolean LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms' AS $$
BEGIN
    IF pgmq_gateway.queue_exists(queue) THEN
        RETURN true;
    END IF;
    PERFORM pgmq_gateway.require_shown(queue);
    RETURN false;
END
$$;

-- The same, or whether it has a table and PGMQ lists none by any spelling of its name: messages are stored and read
-- there all the same.
CREATE FUNCTION pgmq_gateway.is_served(queue text)
RETURNS boolean LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms' AS $$
BEGIN
    RETURN pgmq_gateway.is_known_queue(queue)
        OR pgmq_gateway.find_queue_table(queue) IS NOT NULL AND pgmq_gateway.goes_by(queue);
END
$$;

-- Whether a queue that PGMQ is not known to list has a table, and policies on PGMQ's list are in force.
CREATE FUNCTION pgmq_gateway.is_hidden(queue text)
RETURNS boolean LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN row_security_active('pgmq.meta') AND pgmq_gateway.find_queue_table(queue) IS NOT NULL
        AND NOT EXISTS (SELECT FROM pgmq.meta m WHERE lower(m.queue_name) = lower(queue));
END
$$;

-- Raises PGW34 where it is hidden.
CREATE FUNCTION pgmq_gateway.require_shown(queue text)
RETURNS void LANGUAGE plpgsql STABLE AS $$
BEGIN
    IF pgmq_gateway.is_hidden(queue) THEN
        RAISE EXCEPTION '%', queue USING ERRCODE = 'PGW34';
    END IF;
END
$$;

-- The names of all queues that can be asked for.
CREATE FUNCTION pgmq_gateway.queue_names()
RETURNS SETOF text LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms' AS $$
BEGIN
    RETURN QUERY SELECT m.queue_name::text FROM pgmq.meta m WHERE pgmq_gateway.is_name(m.queue_name);
END
$$;

-- Queues whose names begin with `prefix` and come behind `after`, in order of their names' bytes; or
-- the `only_queue` one. `notify_ms` is the throttle of PGMQ's insert notifications where they are on;
-- PGMQ forgets it when the server crashes. `row_security` says that policies hide rows from this role.
CREATE FUNCTION pgmq_gateway.list_queues(prefix text, after text, max_queues bigint, only_queue text)
RETURNS TABLE (
    queue text, is_partitioned boolean, is_unlogged boolean, created_at timestamptz, fifo boolean,
    settings jsonb, notify_ms integer, row_security boolean, dead_letters_missing boolean
) LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms' AS $$
DECLARE
    -- Without the table there is no throttle. It is not logged, so that a standby has nothing of it.
    throttle text := '0';
    said text := 'coalesce(pgmq_gateway.setting_number(s.settings -> ''notify'', ''throttle_ms'', 0,
                                                       86400000)::integer, 250)';
BEGIN
    PERFORM pgmq_gateway.require_own_session();
    IF pg_is_in_recovery() THEN
        throttle := said;
    ELSIF to_regclass('pgmq.notify_insert_throttle') IS NOT NULL
          AND NOT (has_column_privilege('pgmq.notify_insert_throttle', 'queue_name', 'SELECT')
                   AND has_column_privilege('pgmq.notify_insert_throttle', 'throttle_interval_ms', 'SELECT')) THEN
        -- What is not to be seen there is no reason to show no queue at all.
        throttle := said;
    ELSIF to_regclass('pgmq.notify_insert_throttle') IS NOT NULL THEN
        throttle := format('coalesce((SELECT n.throttle_interval_ms FROM pgmq.notify_insert_throttle n
                                      WHERE n.queue_name = m.queue_name), %s)', said);
    END IF;
    RETURN QUERY EXECUTE format(
        $query$
        -- What is said of each in a table that others fill may be missing.
        SELECT m.queue_name::text,
               coalesce(m.is_partitioned, (SELECT c.relkind = 'p' FROM pg_catalog.pg_class c
                                           WHERE c.oid = m.relation), false),
               coalesce(m.is_unlogged, (SELECT c.relpersistence = 'u' FROM pg_catalog.pg_class c
                                        WHERE c.oid = m.relation), false),
               coalesce(m.created_at, '-infinity'),
               pgmq_gateway.has_fifo_index(m.relation), pgmq_gateway.sane_settings(s.settings),
               CASE WHEN t.oid IS NOT NULL THEN %s END,
               coalesce(row_security_active(m.relation), false),
               s.settings ? 'dead_letter_queue' AND NOT EXISTS (
                   SELECT FROM pgmq.meta d WHERE d.queue_name = s.settings ->> 'dead_letter_queue'
                   AND pgmq_gateway.find_queue_table(d.queue_name::text) IS NOT NULL)
        FROM (SELECT *, to_regclass(format('pgmq.%%I', pgmq.format_table_name(queue_name::text, 'q')))::oid
                        AS relation
              FROM pgmq.meta
              WHERE ($4 IS NULL OR queue_name = $4) AND starts_with(queue_name::text, $1)
                AND pgmq_gateway.is_name(queue_name)
                AND ($2 IS NULL OR queue_name::text COLLATE "C" > $2)
                -- Whoever asks for one is not shown what is not there any more.
                AND ($4 IS NULL OR pgmq_gateway.find_queue_table($4) IS NOT NULL)
              ORDER BY queue_name::text COLLATE "C" LIMIT $3) m
        LEFT JOIN pgmq_gateway.queue_settings s
               ON s.queue_name = m.queue_name
              AND pgmq_gateway.counts_for(s.bound_created_at, s.database_stamp, s.missing_since,
                                          m.created_at)
        LEFT JOIN pg_catalog.pg_trigger t
               ON t.tgrelid = m.relation AND t.tgname = 'trigger_notify_queue_insert_listeners'
        ORDER BY m.queue_name::text COLLATE "C"
        $query$, throttle
    ) USING prefix, after, max_queues, only_queue;
    IF only_queue IS NOT NULL AND NOT FOUND THEN
        PERFORM pgmq_gateway.require_shown(only_queue);
        PERFORM pgmq_gateway.require_table(only_queue);
    END IF;
END
$$;

-- The queues for whose tables policies are in force.
CREATE FUNCTION pgmq_gateway.queues_with_row_security()
RETURNS SETOF text LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN QUERY SELECT m.queue_name::text FROM pg_catalog.pg_class c
                 -- PGMQ's function for that refuses what is no name.
                 JOIN pgmq.meta m ON 'q_' || pgmq_gateway.folded(m.queue_name::text) = c.relname
                                 AND pgmq_gateway.is_name(m.queue_name)
                 WHERE c.relnamespace = 'pgmq'::regnamespace AND c.relrowsecurity
                   AND row_security_active(c.oid);
END
$$;

-- Seconds since a moment, as far as an integer holds them.
CREATE FUNCTION pgmq_gateway.age(moment timestamptz)
RETURNS float8 LANGUAGE sql STABLE AS $$
    SELECT CASE WHEN moment IS NOT NULL THEN
        greatest(least(extract(epoch FROM now()) - extract(epoch FROM moment), 2147483647),
                 -2147483647) END::float8
$$;

-- pgmq.metrics, without what older PGMQs lack, how many messages were delivered and are still hidden, how many
-- there are to deal with, and for how long the one that waits longest could have been delivered.
CREATE FUNCTION pgmq_gateway.metrics(
    queue text, OUT queue_length bigint, OUT queue_visible_length bigint, OUT in_flight bigint,
    OUT newest_msg_age_sec integer, OUT oldest_msg_age_sec integer, OUT total_messages bigint,
    OUT backlog bigint, OUT oldest_visible_msg_age_sec integer, OUT scrape_time timestamptz
) LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms' AS $$
DECLARE
    sequence text;
BEGIN
    PERFORM pgmq_gateway.require_own_session();
    EXECUTE format(
        '/* pgmq_gateway */ SELECT count(*), count(*) FILTER (WHERE m.vt <= now()),
                count(*) FILTER (WHERE m.vt > now() AND m.read_ct > 0),
                pgmq_gateway.age(max(m.enqueued_at) FILTER (WHERE isfinite(m.enqueued_at)))::integer,
                pgmq_gateway.age(min(m.enqueued_at) FILTER (WHERE isfinite(m.enqueued_at)))::integer,
                count(*) FILTER (WHERE m.vt <= now() OR m.read_ct > 0),
                pgmq_gateway.age(min(m.vt) FILTER (WHERE m.vt <= now() AND isfinite(m.vt)))::integer,
                now()
         FROM %s m', pgmq_gateway.queue_table(queue)
    ) INTO queue_length, queue_visible_length, in_flight, newest_msg_age_sec, oldest_msg_age_sec, backlog,
           oldest_visible_msg_age_sec, scrape_time;
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
-- the length is the estimate that PostgreSQL keeps. The oldest message is so among those that are counted and the
-- first one: a dead letter may have come behind younger ones.
CREATE FUNCTION pgmq_gateway.queue_figures(
    queue text, count_limit integer, OUT length bigint, OUT visible bigint, OUT backlog bigint,
    OUT oldest_age float8, OUT oldest_visible_age float8
) LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    q_table regclass := pgmq_gateway.queue_table(queue);
    -- The column with an index that grows with time: a partitioned queue may lack one on msg_id.
    time_order name := coalesce(
        (SELECT a.attname FROM pg_partitioned_table p
         JOIN pg_attribute a ON a.attrelid = p.partrelid AND a.attnum = p.partattrs[0]
         WHERE p.partrelid = q_table), 'msg_id');
    -- A partitioned queue has no index on vt: there, it is any of its messages that are looked at.
    vt_order text := CASE WHEN EXISTS (SELECT FROM pg_partitioned_table p WHERE p.partrelid = q_table)
                          THEN '' ELSE 'ORDER BY m.vt' END;
    -- Messages that are hidden, as far as they are counted, and how many of them were delivered.
    hidden bigint;
    in_flight bigint;
BEGIN
    PERFORM pgmq_gateway.require_own_session();
    EXECUTE pg_catalog.format(
        $query$
        SELECT l.length,
               (SELECT count(*) FROM (SELECT FROM %1$s m WHERE m.vt <= now() LIMIT $1 + 1) v),
               pgmq_gateway.age(least(l.oldest, (SELECT m.enqueued_at FROM %1$s m
                                                 WHERE isfinite(m.enqueued_at) ORDER BY m.%2$I LIMIT 1))),
               (SELECT pgmq_gateway.age(min(v.vt)) FROM (
                    SELECT m.vt FROM %1$s m WHERE m.vt <= now() AND isfinite(m.vt) %3$s LIMIT %4$s) v),
               h.hidden, h.in_flight
        FROM (SELECT count(*) AS hidden, count(*) FILTER (WHERE s.read_ct > 0) AS in_flight
              FROM (SELECT m.read_ct FROM %1$s m WHERE m.vt > now() %3$s LIMIT $1 + 1) s) h,
             (SELECT count(*) AS length, min(s.enqueued_at) FILTER (WHERE isfinite(s.enqueued_at)) AS oldest
              FROM (SELECT m.enqueued_at FROM %1$s m LIMIT $1 + 1) s) l
        $query$, q_table, time_order, vt_order, CASE WHEN vt_order = '' THEN '$1 + 1' ELSE '1' END
    ) INTO length, visible, oldest_age, oldest_visible_age, hidden, in_flight USING count_limit;
    backlog := visible + in_flight;
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
    -- Where all of those that were looked at were delivered, the others are taken to be so, too.
    backlog := CASE WHEN hidden > count_limit AND in_flight = hidden THEN length ELSE visible + in_flight END;
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
    PERFORM pgmq_gateway.require_own_session();
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
