-- What belongs to a queue and PGMQ has no place for.

-- Settings that differ from their defaults. A row counts for the queue that was there when it was
-- written: a later queue of the same name, whoever made it, was created at another moment.
CREATE TABLE pgmq_gateway.queue_settings (
    queue_name text PRIMARY KEY,
    queue_created_at timestamptz NOT NULL,
    settings jsonb NOT NULL,
    -- Up to where the enforcement of message_retention has come.
    retention_cursor bigint NOT NULL DEFAULT 0
);

-- The key with which receipts are signed, the same for all gateways on this database. The random
-- numbers are PostgreSQL's strong ones.
CREATE TABLE pgmq_gateway.secret (name text PRIMARY KEY, value bytea NOT NULL);
INSERT INTO pgmq_gateway.secret (name, value) VALUES ('receipts', decode(
    replace(gen_random_uuid()::text || gen_random_uuid()::text || gen_random_uuid()::text, '-', ''),
    'hex'));

-- The name of the index by which a queue is read in groups.
CREATE FUNCTION pgmq_gateway.fifo_index(queue text)
RETURNS text LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN pgmq.format_table_name(queue, 'q') || '_gw_fifo_idx';
END
$$;

-- Whether a queue has that index.
CREATE FUNCTION pgmq_gateway.has_fifo_index(queue text)
RETURNS boolean LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN to_regclass(format('pgmq.%I', pgmq_gateway.fifo_index(queue))) IS NOT NULL;
END
$$;

-- The settings of all queues that have some, or are read in groups.
CREATE FUNCTION pgmq_gateway.all_settings()
RETURNS TABLE (queue text, settings jsonb, fifo boolean) LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN QUERY SELECT s.queue_name, s.settings, pgmq_gateway.has_fifo_index(s.queue_name)
                 FROM pgmq_gateway.queue_settings s
                 JOIN pgmq.meta m ON m.queue_name = s.queue_name
                                 AND m.created_at = s.queue_created_at;
END
$$;

-- Queues whose names begin with `prefix` and come behind `after`, in order of their names' bytes; or
-- the `only_queue` one. `notify_ms` is the throttle of PGMQ's insert notifications where they are on.
CREATE FUNCTION pgmq_gateway.list_queues(prefix text, after text, max_queues bigint, only_queue text)
RETURNS TABLE (
    queue text, is_partitioned boolean, is_unlogged boolean, created_at timestamptz, fifo boolean,
    settings jsonb, notify_ms integer
) LANGUAGE plpgsql STABLE AS $$
DECLARE
    -- Without the table there is no throttle; without the row there are no notifications.
    throttle text := '0';
BEGIN
    IF to_regclass('pgmq.notify_insert_throttle') IS NOT NULL THEN
        throttle := '(SELECT n.throttle_interval_ms FROM pgmq.notify_insert_throttle n
                      WHERE n.queue_name = m.queue_name)';
    END IF;
    RETURN QUERY EXECUTE format(
        $query$
        SELECT m.queue_name::text, m.is_partitioned, m.is_unlogged, m.created_at,
               pgmq_gateway.has_fifo_index(m.queue_name), s.settings,
               CASE WHEN t.oid IS NOT NULL THEN %s END
        FROM pgmq.meta m
        LEFT JOIN pgmq_gateway.queue_settings s
               ON s.queue_name = m.queue_name AND s.queue_created_at = m.created_at
        LEFT JOIN pg_catalog.pg_trigger t
               ON t.tgrelid = to_regclass(format('pgmq.%%I',
                                                 pgmq.format_table_name(m.queue_name, 'q')))
              AND t.tgname = 'trigger_notify_queue_insert_listeners'
        WHERE ($4 IS NULL OR m.queue_name = $4) AND starts_with(m.queue_name::text, $1)
          AND ($2 IS NULL OR m.queue_name::text COLLATE "C" > $2)
        ORDER BY m.queue_name::text COLLATE "C" LIMIT $3
        $query$, throttle
    ) USING prefix, after, max_queues, only_queue;
END
$$;

-- Gives a queue the index by which it is read in groups. Takes the ownership of its table.
CREATE FUNCTION pgmq_gateway.add_fifo_index(queue text)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    q_table text := pgmq.format_table_name(queue, 'q');
BEGIN
    IF NOT pgmq_gateway.has_column(format('pgmq.%I', q_table)::regclass, 'headers') THEN
        RAISE EXCEPTION 'queues that are read in groups need PGMQ 1.5.0 or later'
            USING ERRCODE = 'PGW01';
    END IF;
    EXECUTE format(
        'CREATE INDEX IF NOT EXISTS %I ON pgmq.%I
         ((coalesce(headers ->> ''x-pgmq-group'', ''_default_fifo_group'')), msg_id)',
        pgmq_gateway.fifo_index(queue), q_table);
    INSERT INTO pgmq_gateway.queue_settings (queue_name, queue_created_at, settings)
    SELECT m.queue_name, m.created_at, '{}' FROM pgmq.meta m WHERE m.queue_name = queue
    ON CONFLICT (queue_name) DO UPDATE
    SET queue_created_at = excluded.queue_created_at, settings = excluded.settings,
        retention_cursor = 0
    WHERE queue_settings.queue_created_at <> excluded.queue_created_at;
END
$$;

-- Whether a table has a column: those of older PGMQs lack some.
CREATE FUNCTION pgmq_gateway.has_column(relation regclass, name text)
RETURNS boolean LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN EXISTS (SELECT FROM pg_catalog.pg_attribute a
                   WHERE a.attrelid = relation AND a.attname = name AND NOT a.attisdropped);
END
$$;

-- Changes those settings of a queue that are in `wishes`, null for the default. False where there
-- is no such queue.
CREATE FUNCTION pgmq_gateway.change_settings(queue text, wishes jsonb)
RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    created timestamptz := (SELECT m.created_at FROM pgmq.meta m WHERE m.queue_name = queue);
BEGIN
    IF created IS NULL THEN
        RETURN false;
    END IF;
    IF wishes ? 'notify' THEN
        PERFORM pgmq_gateway.set_notify(queue, (wishes #>> '{notify,throttle_ms}')::integer);
    END IF;
    INSERT INTO pgmq_gateway.queue_settings (queue_name, queue_created_at, settings)
    VALUES (queue, created, jsonb_strip_nulls(wishes - 'notify'))
    ON CONFLICT (queue_name) DO UPDATE
    SET queue_created_at = excluded.queue_created_at,
        retention_cursor = 0,
        settings = jsonb_strip_nulls(
            CASE WHEN queue_settings.queue_created_at = excluded.queue_created_at
                 THEN queue_settings.settings ELSE '{}' END || (wishes - 'notify'));
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
END
$$;

-- Makes a queue, once, with all that belongs to it. Of one that is there nothing is changed. As
-- create_queue for the outcome.
CREATE FUNCTION pgmq_gateway.put_queue(
    queue text, kind text, partition_interval text, retention text, fifo boolean, wishes jsonb,
    OUT outcome text, OUT existing text
) LANGUAGE plpgsql AS $$
BEGIN
    SELECT c.outcome, c.existing INTO outcome, existing
    FROM pgmq_gateway.create_queue(queue, kind, partition_interval, retention) c;
    IF outcome = 'created' THEN
        -- Of an unlogged table the ids would begin anew after a crash, beside an archive and receipts
        -- that know the old ones.
        IF kind = 'unlogged' AND current_setting('server_version_num')::integer >= 150000 THEN
            EXECUTE format('ALTER SEQUENCE pgmq.%I SET LOGGED',
                           pgmq.format_table_name(queue, 'q') || '_msg_id_seq');
        END IF;
        IF fifo THEN
            PERFORM pgmq_gateway.add_fifo_index(queue);
        END IF;
        IF wishes <> '{}' THEN
            PERFORM pgmq_gateway.change_settings(queue, wishes);
        END IF;
    END IF;
END
$$;

-- As before, for older PGMQs too, which have no function for the lock.
CREATE OR REPLACE FUNCTION pgmq_gateway.create_queue(
    queue text, kind text, partition_interval text, retention text,
    OUT outcome text, OUT existing text
) LANGUAGE plpgsql AS $$
DECLARE
    partman text := (SELECT quote_ident(n.nspname) FROM pg_extension e
                     JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'pg_partman');
    q_table text := pgmq.format_table_name(queue, 'q');
    alike boolean;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('pgmq.queue_' || queue));
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
