-- Writing down which queues there are, for identity.sql to go by.

-- Writes down which queue has a name now, unless that is known. What was written down for an earlier
-- queue of this name is forgotten; what came here from another database counts for the queue that has the
-- name here.
CREATE FUNCTION pgmq_gateway.register_queue(queue text)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    made timestamptz := (SELECT m.created_at FROM pgmq.meta m WHERE m.queue_name = queue);
    stamp text := pgmq_gateway.database_stamp();
    moment timestamptz := made;
BEGIN
    IF made IS NULL OR EXISTS (
        SELECT FROM pgmq_gateway.queue_settings s
        WHERE s.queue_name = queue AND s.bound_created_at = made
          AND pgmq_gateway.is_same_database(s.database_stamp, stamp) AND s.missing_since IS NULL) THEN
        RETURN;
    END IF;
    IF pgmq_gateway.tells_apart(made)
       AND (pgmq_gateway.shares_moment(queue, made) OR pgmq_gateway.is_moment_of_another(queue, made)) THEN
        moment := pgmq_gateway.free_moment(queue, made);
    END IF;
    INSERT INTO pgmq_gateway.queue_settings AS s (
        queue_name, queue_created_at, bound_created_at, database_stamp, settings, fifo)
    SELECT m.queue_name, moment, m.created_at, stamp, '{}',
           coalesce(pgmq_gateway.has_fifo_index(pgmq_gateway.find_queue_table(queue)), false)
    FROM pgmq.meta m WHERE m.queue_name = queue AND m.created_at = made
    ON CONFLICT (queue_name) DO UPDATE
    SET (bound_created_at, database_stamp, fifo, retention_cursor, missing_since,
         queue_created_at, former_created_at, settings) = (
        SELECT excluded.bound_created_at, excluded.database_stamp, excluded.fifo, 0, NULL::timestamptz,
               CASE WHEN c.counts THEN s.queue_created_at ELSE excluded.queue_created_at END,
               CASE WHEN c.counts THEN s.former_created_at END,
               CASE WHEN c.counts THEN s.settings ELSE '{}'::jsonb END
        FROM pgmq_gateway.counts_for(s.bound_created_at, s.database_stamp, s.missing_since,
                                     excluded.bound_created_at) AS c (counts))
    WHERE s.bound_created_at <> excluded.bound_created_at
       OR NOT pgmq_gateway.is_same_database(s.database_stamp, excluded.database_stamp)
       OR s.missing_since IS NOT NULL;
END
$$;

-- Whether an error is about the queue alone that was to be written down: the others may fare better.
CREATE FUNCTION pgmq_gateway.is_of_one_queue(code text)
RETURNS boolean LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN left(code, 2) NOT IN ('25', '53', '57', '58', 'XX')
       AND has_table_privilege('pgmq_gateway.queue_settings', 'INSERT')
       AND has_table_privilege('pgmq_gateway.queue_settings', 'UPDATE');
END
$$;

-- Writes down which queues there are, and takes over what came from another database, whose names are `restored`. Some
-- at a time, in order of their names: `more` says that there may be others, behind `last_queue`. What belongs to no
-- queue is kept for a day: it may be on its way here. What a policy, a trigger or a missing right keeps as it is keeps
-- nothing else from being done: `kept_code` says why one of them is.
CREATE FUNCTION pgmq_gateway.register_queues(
    after text DEFAULT '', max_queues integer DEFAULT 50,
    OUT restored text[], OUT last_queue text, OUT more boolean, OUT kept_code text
) LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '250ms' AS $$
DECLARE
    stamp text := pgmq_gateway.database_stamp();
    looked_at integer := 0;
    noted integer := 0;
    unknown record;
BEGIN
    restored := '{}';
    last_queue := after;
    FOR unknown IN
        SELECT m.queue_name::text, NOT pgmq_gateway.is_same_database(s.database_stamp, stamp) AS is_restored
        FROM pgmq.meta m LEFT JOIN pgmq_gateway.queue_settings s ON s.queue_name = m.queue_name
        WHERE pgmq_gateway.is_name(m.queue_name) AND m.queue_name::text COLLATE "C" > after
          AND (s.queue_name IS NULL OR s.bound_created_at <> m.created_at
               OR NOT pgmq_gateway.is_same_database(s.database_stamp, stamp) OR s.missing_since IS NOT NULL)
        ORDER BY m.queue_name::text COLLATE "C" LIMIT max_queues
    LOOP
        looked_at := looked_at + 1;
        last_queue := unknown.queue_name;
        BEGIN
            PERFORM pgmq_gateway.register_queue(unknown.queue_name);
            IF unknown.is_restored THEN
                restored := restored || unknown.queue_name;
            END IF;
        EXCEPTION
            WHEN lock_not_available THEN
                -- The next round tries again.
                NULL;
            WHEN OTHERS THEN
                IF NOT pgmq_gateway.is_of_one_queue(SQLSTATE) THEN
                    RAISE;
                END IF;
                kept_code := SQLSTATE;
        END;
    END LOOP;
    more := looked_at = max_queues;
    IF more THEN
        RETURN;
    END IF;
    -- Indexes that were made or dropped by others, or whose maker did not come to say so.
    FOR unknown IN
        SELECT m.queue_name FROM pgmq.meta m
        JOIN pgmq_gateway.queue_settings s ON s.queue_name = m.queue_name
         AND pgmq_gateway.is_same_database(s.database_stamp, stamp)
        JOIN pg_catalog.pg_class c ON c.relnamespace = 'pgmq'::regnamespace
                                  AND c.relname = 'q_' || pgmq_gateway.folded(m.queue_name::text)
        WHERE pgmq_gateway.is_name(m.queue_name)
          -- Few have one of the kind; the others need not be asked.
          AND (s.fifo OR EXISTS (SELECT FROM pg_catalog.pg_index i
                                 WHERE i.indrelid = c.oid AND i.indexprs IS NOT NULL))
          AND s.fifo <> pgmq_gateway.has_fifo_index(c.oid)
        LIMIT max_queues
    LOOP
        BEGIN
            PERFORM pgmq_gateway.note_fifo(unknown.queue_name);
            noted := noted + 1;
        EXCEPTION
            WHEN lock_not_available OR SQLSTATE 'PGW40' OR SQLSTATE 'PGW43' THEN
                -- The next round tries again.
                NULL;
            WHEN OTHERS THEN
                IF NOT pgmq_gateway.is_of_one_queue(SQLSTATE) THEN
                    RAISE;
                END IF;
                kept_code := SQLSTATE;
        END;
    END LOOP;
    more := noted = max_queues
         OR pgmq_gateway.separate_queues(max_queues - noted) = max_queues - noted;
    IF more THEN
        RETURN;
    END IF;
    BEGIN
        PERFORM pgmq_gateway.note_missing_queues(stamp);
    EXCEPTION
        WHEN lock_not_available THEN
            NULL;
        WHEN OTHERS THEN
            IF NOT pgmq_gateway.is_of_one_queue(SQLSTATE) THEN
                RAISE;
            END IF;
            kept_code := SQLSTATE;
    END;
    kept_code := coalesce(pgmq_gateway.restore_notify_throttles(), kept_code);
END
$$;

-- Notes since when a queue is missing, and forgets one that has been for a day. Who is not shown every queue cannot
-- tell which are gone.
CREATE FUNCTION pgmq_gateway.note_missing_queues(stamp text)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF row_security_active('pgmq.meta') THEN
        RETURN;
    END IF;
    WITH missing AS (
        SELECT s.queue_name FROM pgmq_gateway.queue_settings s
        WHERE pgmq_gateway.is_same_database(s.database_stamp, stamp) AND s.missing_since IS NULL
          AND NOT EXISTS (SELECT FROM pgmq.meta m WHERE m.queue_name = s.queue_name)
        FOR UPDATE SKIP LOCKED
    )
    UPDATE pgmq_gateway.queue_settings s SET missing_since = now() FROM missing g
    WHERE s.queue_name = g.queue_name;
    WITH gone AS (
        SELECT s.queue_name FROM pgmq_gateway.queue_settings s
        WHERE pgmq_gateway.is_same_database(s.database_stamp, stamp)
          AND s.missing_since < now() - interval '1 day'
          AND NOT EXISTS (SELECT FROM pgmq.meta m WHERE m.queue_name = s.queue_name)
        FOR UPDATE SKIP LOCKED
    )
    DELETE FROM pgmq_gateway.queue_settings s USING gone g WHERE s.queue_name = g.queue_name;
END
$$;

-- Gives an identity of its own to each of some queues that have one between them, as those had that were made in one
-- transaction and were written down before that was seen to, and says to how many: also those that a restore brings.
CREATE FUNCTION pgmq_gateway.separate_queues(max_queues integer)
RETURNS integer LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '250ms' AS $$
DECLARE
    separated integer := 0;
    shared record;
BEGIN
    FOR shared IN
        SELECT s.queue_name, s.queue_created_at
        FROM pgmq_gateway.queue_settings s
        JOIN (SELECT k.moment FROM (
                  SELECT o.queue_created_at AS moment FROM pgmq_gateway.queue_settings o
                  UNION ALL
                  -- One that has kept it alone is not to have what was given out for all of them.
                  SELECT DISTINCT f.former_created_at FROM pgmq_gateway.queue_settings f
                  WHERE f.former_created_at IS NOT NULL) k
              GROUP BY k.moment HAVING count(*) > 1) c ON c.moment = s.queue_created_at
        WHERE pgmq_gateway.tells_apart(s.queue_created_at)
        ORDER BY s.queue_name LIMIT max_queues
    LOOP
        BEGIN
            PERFORM pgmq_gateway.separate_queue(shared.queue_name, shared.queue_created_at);
            separated := separated + 1;
        EXCEPTION WHEN OTHERS THEN
            -- The next round tries again.
            IF NOT pgmq_gateway.is_of_one_queue(SQLSTATE) THEN
                RAISE;
            END IF;
        END;
    END LOOP;
    RETURN separated;
END
$$;

-- Does so for one, which takes along what is kept for it.
CREATE FUNCTION pgmq_gateway.separate_queue(queue text, made timestamptz)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    moment timestamptz := pgmq_gateway.free_moment(queue, made);
    old_id bigint := pgmq_gateway.queue_id_of(made);
    new_id bigint := pgmq_gateway.queue_id_of(moment);
BEGIN
    UPDATE pgmq_gateway.queue_settings s SET queue_created_at = moment, former_created_at = made
    WHERE s.queue_name = queue AND s.queue_created_at = made;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    UPDATE pgmq_gateway.queue_attributes a SET queue_id = new_id
    WHERE a.queue_name = queue AND a.queue_id = old_id;
    -- What was sent to it in the last minutes is what is found in it: another queue may have said the rest.
    IF EXISTS (SELECT FROM pgmq_gateway.deduplication_ids d WHERE d.queue_id = old_id) THEN
        BEGIN
            EXECUTE format(
                'UPDATE pgmq_gateway.deduplication_ids d SET queue_id = $1 WHERE d.queue_id = $2
                 AND EXISTS (SELECT FROM %s q WHERE q.msg_id = d.msg_id
                             AND pgmq_gateway.deduplication_key(q.headers) = d.key)',
                pgmq_gateway.find_queue_table(queue)) USING new_id, old_id;
        EXCEPTION WHEN OTHERS THEN
            -- The table is gone, locked, or not for this role to read: what is sent twice is stored twice.
            NULL;
        END;
    END IF;
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
        retention_cursor = 0, missing_since = excluded.missing_since,
        former_created_at = excluded.former_created_at;
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
