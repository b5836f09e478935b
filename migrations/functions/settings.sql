-- What is set for queues. People write into the table, too: whatever is no setting, or none that can be sent,
-- counts as the default, for that queue alone.

-- The settings of all queues that have some, are read in groups, or have a table of another name:
-- `folded` is what PGMQ, and this database's rules for letters, make of the name. `dead_letters_missing` says that
-- the queue that is set for dead letters is not there, `hidden` that a queue has settings, and policies hide whether
-- they are its own.
CREATE FUNCTION pgmq_gateway.all_settings()
RETURNS TABLE (
    queue text, settings jsonb, fifo boolean, folded text, dead_letters_missing boolean, hidden boolean
)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms' AS $$
BEGIN
    PERFORM pgmq_gateway.require_own_session();
    RETURN QUERY SELECT s.queue_name, pgmq_gateway.sane_settings(s.settings), s.fifo,
                        pgmq_gateway.folded(s.queue_name),
                        s.settings ? 'dead_letter_queue' AND t.oid IS NULL, false
                 FROM pgmq_gateway.queue_settings s
                 JOIN pgmq.meta m ON m.queue_name = s.queue_name
                  AND pgmq_gateway.counts_for(s.bound_created_at, s.database_stamp, s.missing_since,
                                              m.created_at)
                 -- As find_queue_table looks for it, without a call for each: this is asked often.
                 LEFT JOIN pgmq.meta d ON d.queue_name = s.settings ->> 'dead_letter_queue'
                 LEFT JOIN pg_catalog.pg_class t
                        ON t.relnamespace = 'pgmq'::regnamespace
                       AND t.relname = 'q_' || pgmq_gateway.folded(coalesce(d.queue_name,
                           CASE WHEN row_security_active('pgmq.meta') THEN s.settings ->> 'dead_letter_queue' END))
                       AND t.relkind IN ('r', 'p') AND NOT t.relispartition
                 WHERE (s.settings <> '{}' OR s.fifo) AND pgmq_gateway.is_name(s.queue_name)
                 UNION ALL
                 SELECT m.queue_name::text, '{}', false, pgmq_gateway.folded(m.queue_name), false, false
                 FROM pgmq.meta m
                 WHERE m.queue_name <> pgmq_gateway.folded(m.queue_name)
                   AND pgmq_gateway.is_name(m.queue_name)
                   AND NOT EXISTS (SELECT FROM pgmq_gateway.queue_settings s
                                   WHERE s.queue_name = m.queue_name
                                     AND (s.settings <> '{}' OR s.fifo))
                 UNION ALL
                 SELECT s.queue_name, '{}', false, pgmq_gateway.folded(s.queue_name), false, true
                 FROM pgmq_gateway.queue_settings s
                 WHERE row_security_active('pgmq.meta') AND pgmq_gateway.is_name(s.queue_name)
                   AND pgmq_gateway.are_settings_hidden(s.queue_name);
END
$$;

-- Whether a queue has settings, and policies on PGMQ's list hide whether they are its own, or those of an earlier queue
-- of its name.
CREATE FUNCTION pgmq_gateway.are_settings_hidden(queue text)
RETURNS boolean LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN row_security_active('pgmq.meta')
        AND EXISTS (SELECT FROM pgmq_gateway.queue_settings s
                    WHERE s.queue_name = queue AND (s.settings <> '{}' OR s.fifo))
        AND pgmq_gateway.is_hidden(queue);
END
$$;

-- What a name is in that of its table, as PGMQ writes it.
CREATE FUNCTION pgmq_gateway.folded(queue_name text)
RETURNS text LANGUAGE sql STABLE AS $$
    SELECT substr(lower('q_' || queue_name), 3)
$$;

-- Changes those settings of a queue that are in `wishes`, null for the default. False where there
-- is no such queue. One change after the other: PGMQ's notifications cannot be turned on by two at once. Raises PGW35
-- where they are not stored as they were given.
CREATE FUNCTION pgmq_gateway.change_settings(queue text, wishes jsonb)
RETURNS boolean LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp SET lock_timeout = '100ms' AS $$
DECLARE
    stored jsonb;
BEGIN
    PERFORM pgmq_gateway.require_own_session();
    PERFORM pgmq_gateway.lock_queue(queue);
    PERFORM FROM pgmq.meta m
    WHERE m.queue_name = queue AND pgmq_gateway.find_queue_table(queue) IS NOT NULL;
    IF NOT FOUND THEN
        PERFORM pgmq_gateway.require_shown(queue);
        PERFORM pgmq_gateway.require_table(queue);
        RETURN false;
    END IF;
    IF wishes ? 'notify' THEN
        PERFORM pgmq_gateway.set_notify(queue, (wishes #>> '{notify,throttle_ms}')::integer);
    END IF;
    PERFORM pgmq_gateway.register_queue(queue);
    UPDATE pgmq_gateway.queue_settings s
    SET settings = jsonb_strip_nulls(pgmq_gateway.as_object(s.settings) || wishes), retention_cursor = 0
    WHERE s.queue_name = queue RETURNING s.settings INTO stored;
    IF NOT FOUND OR NOT pgmq_gateway.is_as_wished(stored, wishes) THEN
        RAISE EXCEPTION 'pgmq_gateway.queue_settings' USING ERRCODE = 'PGW35';
    END IF;
    RETURN true;
END
$$;

-- Refuses insert notifications of which this PGMQ knows nothing.
CREATE FUNCTION pgmq_gateway.check_notify(throttle_ms integer)
RETURNS void LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms' AS $$
BEGIN
    IF to_regprocedure('pgmq.enable_notify_insert(text, integer)') IS NOT NULL THEN
        RETURN;
    ELSIF to_regprocedure('pgmq.enable_notify_insert(text)') IS NULL THEN
        RAISE EXCEPTION 'insert notifications need PGMQ 1.7.0 or later' USING ERRCODE = 'PGW01';
    ELSIF throttle_ms > 0 THEN
        RAISE EXCEPTION 'throttled insert notifications need PGMQ 1.8.0 or later'
            USING ERRCODE = 'PGW01';
    END IF;
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
        PERFORM pgmq_gateway.restore_notify_throttles(queue);
        RETURN;
    ELSIF throttle_ms IS NULL THEN
        PERFORM pgmq.disable_notify_insert(queue);
    ELSE
        PERFORM pgmq_gateway.check_notify(throttle_ms);
        IF to_regprocedure('pgmq.enable_notify_insert(text, integer)') IS NOT NULL THEN
            PERFORM pgmq.enable_notify_insert(queue, throttle_ms);
        ELSE
            PERFORM pgmq.enable_notify_insert(queue);
        END IF;
    END IF;
    is_now := (SELECT q.notify_ms FROM pgmq_gateway.list_queues('', NULL, 1, queue) q);
    IF throttle_ms IS DISTINCT FROM is_now THEN
        RAISE EXCEPTION 'pgmq.notify_insert_throttle, or on tables in general,' USING ERRCODE = 'PGW35';
    END IF;
END
$$;

-- PGMQ keeps the throttle of insert notifications in an unlogged table, which a crash empties; without a
-- row there its trigger says nothing. It is restored for some at a time, first for one that is named. A queue that
-- somebody changes in this moment is left alone: what is turned off would have a row again. Where a missing right, a
-- policy or a trigger is in the way, that is nobody else's trouble: the error of one is returned.
CREATE FUNCTION pgmq_gateway.restore_notify_throttles(first_queue text DEFAULT NULL)
RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    lacking text := '
        FROM pg_catalog.pg_trigger t
        JOIN pgmq.meta m ON t.tgrelid = to_regclass(format(
            ''pgmq.%I'', pgmq.format_table_name(m.queue_name::text, ''q'')))
        LEFT JOIN pgmq_gateway.queue_settings s ON s.queue_name = m.queue_name
        WHERE t.tgname = ''trigger_notify_queue_insert_listeners'' AND pgmq_gateway.is_name(m.queue_name)
          AND NOT EXISTS (SELECT FROM pgmq.notify_insert_throttle n WHERE n.queue_name = m.queue_name) ';
    queue text;
    kept_code text;
BEGIN
    -- A standby has nothing of what is not logged.
    IF to_regclass('pgmq.notify_insert_throttle') IS NULL OR pg_is_in_recovery()
       OR NOT has_table_privilege('pgmq.notify_insert_throttle', 'INSERT')
       OR NOT has_column_privilege('pgmq.notify_insert_throttle', 'queue_name', 'SELECT') THEN
        RETURN NULL;
    END IF;
    -- In any order: those that are refused are not to stand in front of the others for ever.
    FOR queue IN EXECUTE 'SELECT m.queue_name::text' || lacking
        || 'ORDER BY m.queue_name IS DISTINCT FROM $1, random() LIMIT 100' USING first_queue LOOP
        CONTINUE WHEN NOT pgmq_gateway.try_lock_queue(queue);
        BEGIN
            EXECUTE 'INSERT INTO pgmq.notify_insert_throttle (queue_name, throttle_interval_ms)
                     SELECT m.queue_name, coalesce(pgmq_gateway.setting_number(
                                s.settings -> ''notify'', ''throttle_ms'', 0, 86400000), 250)' || lacking
                || 'AND m.queue_name = $1 ON CONFLICT DO NOTHING' USING queue;
        EXCEPTION
            WHEN lock_not_available THEN
                -- Those behind it would stand there, too.
                EXIT;
            WHEN OTHERS THEN
                kept_code := SQLSTATE;
        END;
    END LOOP;
    RETURN kept_code;
EXCEPTION WHEN OTHERS THEN
    RETURN nullif(SQLSTATE, '55P03');
END
$$;

-- After how many deliveries a queue's messages are dead letters, and to which queue they go, as it is set now: what a
-- gateway knows of it may be older than a second, or about an earlier queue of this name, and a message that went
-- elsewhere does not come back by itself. What is known counts while somebody has the settings locked.
CREATE FUNCTION pgmq_gateway.dead_letter_rule(queue text, INOUT max_receives integer, INOUT target text)
LANGUAGE plpgsql STABLE AS $$
DECLARE
    settings jsonb;
BEGIN
    settings := (
        SELECT pgmq_gateway.sane_settings(s.settings) FROM pgmq_gateway.queue_settings s
        JOIN pgmq.meta m ON m.queue_name = s.queue_name
         AND pgmq_gateway.counts_for(s.bound_created_at, s.database_stamp, s.missing_since, m.created_at)
        WHERE s.queue_name = queue);
    IF settings IS NULL AND pgmq_gateway.are_settings_hidden(queue) THEN
        PERFORM pgmq_gateway.require_shown(queue);
    END IF;
    max_receives := pgmq_gateway.setting_number(settings, 'max_receives', 1, 1000);
    -- As the gateway reads it: what it takes for no setting is none here, either.
    target := CASE WHEN jsonb_typeof(settings -> 'dead_letter_queue') = 'string'
                    AND settings ->> 'dead_letter_queue' <> queue
                    AND char_length(settings ->> 'dead_letter_queue') BETWEEN 1 AND 47
                    AND settings ->> 'dead_letter_queue' !~ '[[:cntrl:]]'
                    AND pgmq_gateway.is_name(settings ->> 'dead_letter_queue')
                   THEN settings ->> 'dead_letter_queue' END;
EXCEPTION WHEN lock_not_available THEN
    NULL;
END
$$;

-- A setting that is a number, null where it is none within these bounds.
CREATE FUNCTION pgmq_gateway.setting_number(settings jsonb, name text, lowest bigint, highest bigint)
RETURNS bigint LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN jsonb_typeof(settings -> name) = 'number'
           THEN CASE WHEN scale((settings -> name)::numeric) = 0
                      AND (settings -> name)::numeric BETWEEN lowest AND highest
                THEN (settings -> name)::bigint END END
$$;

-- Settings as they are, with `[]`, which is no setting, for what could not be sent.
CREATE FUNCTION pgmq_gateway.sane_settings(settings jsonb)
RETURNS jsonb LANGUAGE sql STABLE AS $$
    SELECT CASE
        WHEN getdatabaseencoding() = 'UTF8' AND pg_column_size(settings || '{}') < 1000
         AND NOT settings @? '$.** ? (@.type() == "number" && (@ > 1e15 || @ < -1e15))'
        THEN settings ELSE pgmq_gateway.sane_json(settings, 2) END
$$;

CREATE FUNCTION pgmq_gateway.sane_json(document jsonb, depth integer)
RETURNS jsonb LANGUAGE plpgsql STABLE AS $$
BEGIN
    CASE jsonb_typeof(document)
        WHEN 'number' THEN
            IF document::numeric BETWEEN -1e15 AND 1e15 THEN
                RETURN document;
            END IF;
        WHEN 'string' THEN
            IF octet_length(document #>> '{}') <= 1000 AND pgmq_gateway.is_text(document #>> '{}') THEN
                RETURN document;
            END IF;
        WHEN 'object' THEN
            IF depth > 0 THEN
                RETURN (SELECT coalesce(jsonb_object_agg(e.key, pgmq_gateway.sane_json(e.value, depth - 1)),
                                        '{}')
                        FROM (SELECT * FROM jsonb_each(document) e
                              WHERE octet_length(e.key) <= 100 AND pgmq_gateway.is_text(e.key)
                              LIMIT 100) e);
            END IF;
        WHEN 'array' THEN
            NULL;
        ELSE
            RETURN document;
    END CASE;
    RETURN '[]';
END
$$;
