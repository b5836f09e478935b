-- Forgetting what is past its time, a little at a time, and keeping what is known of queues right. Several
-- gateways may be at it at the same time: nobody waits for what another one has locked.

-- Writes down which queues there are, so that a dump carries it, and takes over what was written down in
-- the database from which this one was restored.
CREATE FUNCTION pgmq_gateway.register_queues()
RETURNS void LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp SET lock_timeout = '250ms' AS $$
DECLARE
    stamp text := pgmq_gateway.database_stamp();
BEGIN
    PERFORM pgmq_gateway.register_queue(m.queue_name) FROM pgmq.meta m
    WHERE NOT EXISTS (SELECT FROM pgmq_gateway.queue_settings s WHERE s.queue_name = m.queue_name
                      AND s.bound_created_at = m.created_at AND s.database_stamp = stamp);
    -- What came from another database may wait for its queue.
    WITH gone AS (
        SELECT s.queue_name, s.bound_created_at FROM pgmq_gateway.queue_settings s
        WHERE s.database_stamp = stamp
          AND NOT EXISTS (SELECT FROM pgmq.meta m WHERE m.queue_name = s.queue_name)
        FOR UPDATE SKIP LOCKED
    )
    DELETE FROM pgmq_gateway.queue_settings s USING gone g
    WHERE s.queue_name = g.queue_name AND s.bound_created_at = g.bound_created_at;
    PERFORM pgmq_gateway.restore_notify_throttles();
END
$$;

-- PGMQ keeps the throttle of insert notifications in an unlogged table, which a crash empties; without a
-- row there its trigger says nothing.
CREATE FUNCTION pgmq_gateway.restore_notify_throttles()
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF to_regclass('pgmq.notify_insert_throttle') IS NULL
       OR NOT has_table_privilege('pgmq.notify_insert_throttle', 'INSERT') THEN
        RETURN;
    END IF;
    EXECUTE
        'INSERT INTO pgmq.notify_insert_throttle (queue_name, throttle_interval_ms)
         SELECT m.queue_name, coalesce((s.settings #>> ''{notify,throttle_ms}'')::integer, 250)
         FROM pg_catalog.pg_trigger t
         JOIN pgmq.meta m ON t.tgrelid = to_regclass(format(
             ''pgmq.%I'', pgmq.format_table_name(m.queue_name, ''q'')))
         LEFT JOIN pgmq_gateway.queue_settings s ON s.queue_name = m.queue_name
         WHERE t.tgname = ''trigger_notify_queue_insert_listeners''
           AND NOT EXISTS (SELECT FROM pgmq.notify_insert_throttle n WHERE n.queue_name = m.queue_name)
         ON CONFLICT DO NOTHING';
END
$$;

-- Queues with a retention, in seconds.
CREATE FUNCTION pgmq_gateway.queues_with_retention()
RETURNS TABLE (queue text, message_retention bigint, archive_retention bigint)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp SET lock_timeout = '250ms' AS $$
BEGIN
    RETURN QUERY SELECT s.queue_name, (s.settings ->> 'message_retention')::bigint,
                        (s.settings ->> 'archive_retention')::bigint
                 FROM pgmq_gateway.queue_settings s
                 JOIN pgmq.meta m ON m.queue_name = s.queue_name
                                 AND m.created_at = s.bound_created_at
                 WHERE s.settings ?| ARRAY['message_retention', 'archive_retention']
                   AND s.database_stamp = pgmq_gateway.database_stamp();
END
$$;

-- Deletes those of the next messages that are past their retention and that nobody has in hand, and
-- remembers where to go on. `more` says that there were some, and there are messages behind them; `kept`
-- counts those that their table does not let go, `kept_code` says with which error. Another gateway that is
-- at the same queue is left to it.
CREATE FUNCTION pgmq_gateway.delete_expired_messages(
    queue text, retention_seconds bigint, max_rows integer,
    OUT more boolean, OUT kept bigint, OUT kept_code text
) LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms' AS $$
DECLARE
    q_table regclass := pgmq_gateway.queue_table(queue);
    begins_behind bigint;
    goes_on bigint;
    looked record;
BEGIN
    more := false;
    kept := 0;
    PERFORM pgmq_gateway.require_unlocked(q_table);
    -- Not the row of its settings, which is the order of sends of a queue that is read in groups.
    IF NOT pg_try_advisory_xact_lock(hashtext('pgmq_gateway.retention_' || queue)) THEN
        RETURN;
    END IF;
    SELECT s.retention_cursor INTO begins_behind FROM pgmq_gateway.queue_settings s
    WHERE s.queue_name = queue;
    EXECUTE format(
        'SELECT count(*) = $2 AS is_full, max(n.msg_id) AS last,
                coalesce(array_agg(n.msg_id) FILTER (WHERE n.expired), ''{}'') AS expired
         FROM (SELECT q.msg_id, q.enqueued_at < now() - make_interval(secs => $3) AND q.vt <= now()
                                AS expired
               FROM %s q WHERE q.msg_id > $1 ORDER BY q.msg_id LIMIT $2) n', q_table
    ) INTO looked USING coalesce(begins_behind, 0), max_rows, retention_seconds;
    SELECT d.kept, d.kept_code INTO kept, kept_code
    FROM pgmq_gateway.delete_rows(q_table, looked.expired) d;
    goes_on := CASE WHEN looked.is_full THEN looked.last ELSE 0 END;
    UPDATE pgmq_gateway.queue_settings s SET retention_cursor = goes_on
    WHERE s.ctid = ANY (ARRAY(
        SELECT n.ctid FROM pgmq_gateway.queue_settings n
        WHERE n.queue_name = queue AND n.retention_cursor <> goes_on FOR UPDATE SKIP LOCKED));
    more := looked.is_full AND looked.expired <> '{}';
END
$$;

-- Deletes archived messages past their retention, beginning behind the first `skipped`. `more` says that
-- there may be more; the rest is as above.
CREATE FUNCTION pgmq_gateway.delete_expired_archive(
    queue text, retention_seconds bigint, max_rows integer, skipped bigint,
    OUT more boolean, OUT kept bigint, OUT kept_code text
) LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms' AS $$
DECLARE
    a_table regclass := pgmq_gateway.archive_table(queue);
    expired bigint[];
BEGIN
    PERFORM pgmq_gateway.require_unlocked(a_table);
    EXECUTE format(
        'SELECT coalesce(array_agg(a.msg_id), ''{}'') FROM (
             SELECT a.msg_id FROM %s a WHERE a.archived_at < now() - make_interval(secs => $1)
             ORDER BY a.archived_at LIMIT $2 OFFSET $3 FOR UPDATE SKIP LOCKED) a', a_table
    ) INTO expired USING retention_seconds, max_rows, skipped;
    SELECT d.kept, d.kept_code INTO kept, kept_code
    FROM pgmq_gateway.delete_rows(a_table, expired) d;
    more := cardinality(expired) = max_rows;
END
$$;

-- Deletes idempotency keys past their lifetime. True if there may be more.
CREATE FUNCTION pgmq_gateway.delete_expired_keys(lifetime_seconds integer, max_rows integer)
RETURNS boolean LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp SET lock_timeout = '250ms' AS $$
DECLARE
    deleted integer;
BEGIN
    DELETE FROM pgmq_gateway.idempotency_keys k WHERE k.ctid = ANY (ARRAY(
        SELECT o.ctid FROM pgmq_gateway.idempotency_keys o
        WHERE o.created_at < now() - make_interval(secs => lifetime_seconds)
        ORDER BY o.created_at LIMIT max_rows FOR UPDATE SKIP LOCKED));
    GET DIAGNOSTICS deleted = ROW_COUNT;
    RETURN deleted = max_rows;
END
$$;
