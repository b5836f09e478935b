-- Which queue it is: across restores from a dump, and when another one is made under its name.
--
-- A queue is identified by the moment when it was made, as the database had it in which the gateway saw it
-- first (`queue_created_at`). Its row in queue_settings counts for the queue that was made at
-- `bound_created_at` in the database `database_stamp`; where that is another database, for the queue that has
-- the name here, as the row came by a restore.

-- Which database this is. A copy of it made by dump and restore is another one.
CREATE FUNCTION pgmq_gateway.database_stamp()
RETURNS text LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN format('%s/%s', (SELECT c.system_identifier FROM pg_catalog.pg_control_system() c),
                  (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = current_database()));
EXCEPTION WHEN insufficient_privilege THEN
    RETURN format('?/%s', (SELECT d.oid FROM pg_catalog.pg_database d
                           WHERE d.datname = current_database()));
END
$$;

-- Whether a stamp is this database's. Roles that may not ask for the server's identifier go by the rest.
CREATE FUNCTION pgmq_gateway.is_of_here(stamp text)
RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT stamp = d.here
        OR (left(stamp, 2) = '?/' OR left(d.here, 2) = '?/')
           AND split_part(stamp, '/', 2) = split_part(d.here, '/', 2)
    FROM pgmq_gateway.database_stamp() AS d (here)
$$;

-- Whether a row of queue_settings counts for the queue of its name that was made at `created_at`. One that
-- came from another database does, unless there was no such queue there.
CREATE FUNCTION pgmq_gateway.counts_for(
    bound_created_at timestamptz, stamp text, missing_since timestamptz, created_at timestamptz
) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT bound_created_at = created_at
        OR missing_since IS NULL AND NOT pgmq_gateway.is_of_here(stamp)
$$;

-- A moment in microseconds since 1970, and 0 for one that is none. Later times are none in microseconds.
CREATE FUNCTION pgmq_gateway.queue_id_of(made timestamptz)
RETURNS bigint LANGUAGE sql STABLE AS $$
    SELECT CASE WHEN isfinite(made)
                THEN (extract(epoch FROM least(made, '290000-01-01 00:00:00+00'::timestamptz)) * 1000000)::bigint
                ELSE 0 END
$$;

-- What tells a queue from an earlier or later one of the same name: the moment when it was made, in
-- microseconds since 1970. 0 for a table that PGMQ does not list. What is asked for is written down, so that
-- a dump carries it.
CREATE FUNCTION pgmq_gateway.queue_id(queue text)
RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    made timestamptz;
    is_known boolean;
BEGIN
    SELECT coalesce(s.queue_created_at, m.created_at), s.queue_name IS NOT NULL INTO made, is_known
    FROM pgmq.meta m LEFT JOIN pgmq_gateway.queue_settings s
      ON s.queue_name = m.queue_name
     AND pgmq_gateway.counts_for(s.bound_created_at, s.database_stamp, s.missing_since, m.created_at)
    WHERE m.queue_name = queue;
    IF NOT is_known AND has_table_privilege('pgmq_gateway.queue_settings', 'INSERT, UPDATE')
       AND NOT current_setting('transaction_read_only')::boolean THEN
        BEGIN
            PERFORM pgmq_gateway.register_queue(queue);
        EXCEPTION WHEN OTHERS THEN
            -- Whoever asks next tries again.
            NULL;
        END;
    END IF;
    RETURN pgmq_gateway.queue_id_of(made);
END
$$;

-- Writes down which queue has a name now, unless that is known. What was written down for an earlier
-- queue of this name is forgotten; what came here from another database counts for the queue that has the
-- name here.
CREATE FUNCTION pgmq_gateway.register_queue(queue text)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    is_fifo boolean := coalesce(
        pgmq_gateway.has_fifo_index(pgmq_gateway.find_queue_table(queue)), false);
BEGIN
    INSERT INTO pgmq_gateway.queue_settings AS s (
        queue_name, queue_created_at, bound_created_at, database_stamp, settings, fifo)
    SELECT m.queue_name, m.created_at, m.created_at, pgmq_gateway.database_stamp(), '{}', is_fifo
    FROM pgmq.meta m WHERE m.queue_name = queue
    ON CONFLICT (queue_name) DO UPDATE
    SET (bound_created_at, database_stamp, fifo, retention_cursor, missing_since,
         queue_created_at, settings) = (
        SELECT excluded.bound_created_at, excluded.database_stamp, excluded.fifo, 0, NULL::timestamptz,
               CASE WHEN c.counts THEN s.queue_created_at ELSE excluded.queue_created_at END,
               CASE WHEN c.counts THEN s.settings ELSE '{}'::jsonb END
        FROM pgmq_gateway.counts_for(s.bound_created_at, s.database_stamp, s.missing_since,
                                     excluded.bound_created_at) AS c (counts))
    WHERE s.bound_created_at <> excluded.bound_created_at
       OR s.database_stamp <> excluded.database_stamp OR s.missing_since IS NOT NULL;
END
$$;

-- Writes down which queues there are, and takes over what came from another database: returns the names of
-- the queues that did. What belongs to no queue is kept for a day: it may be on its way here.
CREATE FUNCTION pgmq_gateway.register_queues()
RETURNS SETOF text LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp SET lock_timeout = '250ms' AS $$
DECLARE
    stamp text := pgmq_gateway.database_stamp();
    unknown record;
BEGIN
    FOR unknown IN
        SELECT m.queue_name, s.database_stamp <> stamp AS is_restored
        FROM pgmq.meta m LEFT JOIN pgmq_gateway.queue_settings s ON s.queue_name = m.queue_name
        WHERE pgmq_gateway.is_name(m.queue_name)
          AND (s.queue_name IS NULL OR s.bound_created_at <> m.created_at
               OR s.database_stamp <> stamp OR s.missing_since IS NOT NULL)
    LOOP
        BEGIN
            PERFORM pgmq_gateway.register_queue(unknown.queue_name);
            IF unknown.is_restored THEN
                RETURN NEXT unknown.queue_name;
            END IF;
        EXCEPTION WHEN lock_not_available THEN
            -- The next round tries again.
            NULL;
        END;
    END LOOP;
    -- Indexes that were made or dropped by others, or whose maker did not come to say so.
    FOR unknown IN
        SELECT m.queue_name FROM pgmq.meta m
        JOIN pgmq_gateway.queue_settings s ON s.queue_name = m.queue_name AND s.database_stamp = stamp
        JOIN pg_catalog.pg_class c ON c.relnamespace = 'pgmq'::regnamespace
                                  AND c.relname = 'q_' || pgmq_gateway.folded(m.queue_name::text)
        WHERE pgmq_gateway.is_name(m.queue_name)
          -- Few have one of the kind; the others need not be asked.
          AND (s.fifo OR EXISTS (SELECT FROM pg_catalog.pg_index i
                                 WHERE i.indrelid = c.oid AND i.indexprs IS NOT NULL))
          AND s.fifo <> pgmq_gateway.has_fifo_index(c.oid)
    LOOP
        BEGIN
            PERFORM pgmq_gateway.note_fifo(unknown.queue_name);
        EXCEPTION WHEN lock_not_available OR SQLSTATE 'PGW40' THEN
            -- The next round tries again.
            NULL;
        END;
    END LOOP;
    -- Who is not shown every queue cannot tell which are gone.
    IF NOT row_security_active('pgmq.meta') THEN
        WITH missing AS (
            SELECT s.queue_name FROM pgmq_gateway.queue_settings s
            WHERE s.database_stamp = stamp AND s.missing_since IS NULL
              AND NOT EXISTS (SELECT FROM pgmq.meta m WHERE m.queue_name = s.queue_name)
            FOR UPDATE SKIP LOCKED
        )
        UPDATE pgmq_gateway.queue_settings s SET missing_since = now() FROM missing g
        WHERE s.queue_name = g.queue_name;
        WITH gone AS (
            SELECT s.queue_name FROM pgmq_gateway.queue_settings s
            WHERE s.database_stamp = stamp AND s.missing_since < now() - interval '1 day'
              AND NOT EXISTS (SELECT FROM pgmq.meta m WHERE m.queue_name = s.queue_name)
            FOR UPDATE SKIP LOCKED
        )
        DELETE FROM pgmq_gateway.queue_settings s USING gone g WHERE s.queue_name = g.queue_name;
    END IF;
    PERFORM pgmq_gateway.restore_notify_throttles();
END
$$;

-- Before a row is inserted into queue_settings: one that this database did not write itself comes by a
-- restore of data. It takes the place of what was written down here, if only in this moment, and counts for the queue
-- that has the name, or will.
CREATE OR REPLACE FUNCTION pgmq_gateway.take_restored_settings()
RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    stamp text := pgmq_gateway.database_stamp();
    is_own boolean := false;
BEGIN
    IF current_setting('pgmq_gateway.restored_queue', true) = NEW.queue_name THEN
        RETURN NEW;
    END IF;
    -- Older dumps have neither.
    NEW.bound_created_at := coalesce(NEW.bound_created_at, NEW.queue_created_at);
    NEW.database_stamp := coalesce(NEW.database_stamp, 'restored');
    IF NEW.database_stamp = stamp AND to_regclass('pgmq.meta') IS NOT NULL THEN
        PERFORM FROM pgmq.meta m
        WHERE m.queue_name = NEW.queue_name AND m.created_at = NEW.bound_created_at;
        is_own := FOUND;
    END IF;
    IF is_own AND NEW.settings = '{}' THEN
        -- As register_queue writes it.
        PERFORM FROM pgmq_gateway.queue_settings s
        WHERE s.queue_name = NEW.queue_name AND s.bound_created_at = NEW.bound_created_at
          AND s.database_stamp = stamp;
        IF FOUND THEN
            RETURN NULL;
        END IF;
        RETURN NEW;
    ELSIF NEW.database_stamp = stamp AND NOT is_own THEN
        NEW.database_stamp := 'restored';
    END IF;
    -- Not by the row as it is: a gateway may write one down in this moment, for which that would not wait.
    PERFORM set_config('pgmq_gateway.restored_queue', NEW.queue_name, true);
    INSERT INTO pgmq_gateway.queue_settings AS s SELECT NEW.*
    ON CONFLICT (queue_name) DO UPDATE
    SET queue_created_at = excluded.queue_created_at, bound_created_at = excluded.bound_created_at,
        database_stamp = excluded.database_stamp, settings = excluded.settings, fifo = excluded.fifo,
        retention_cursor = 0, missing_since = excluded.missing_since;
    PERFORM set_config('pgmq_gateway.restored_queue', '', true);
    RETURN NULL;
END
$$;

-- Before a row is inserted into secret: the key that a restore brings takes the place of the one that was
-- made here, as receipts that were signed with it are still out there.
CREATE OR REPLACE FUNCTION pgmq_gateway.take_restored_secret()
RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE pgmq_gateway.secret s SET value = NEW.value WHERE s.name = NEW.name;
    IF FOUND THEN
        RETURN NULL;
    END IF;
    RETURN NEW;
END
$$;
