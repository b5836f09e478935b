-- Forgetting what is past its time, a little at a time. Several gateways may be at it at the same time:
-- nobody waits for what another one has locked.

-- Queues with a retention, in seconds.
CREATE FUNCTION pgmq_gateway.queues_with_retention()
RETURNS TABLE (queue text, message_retention bigint, archive_retention bigint)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN QUERY SELECT r.* FROM (
                     SELECT s.queue_name,
                            pgmq_gateway.setting_number(s.settings, 'message_retention', 1, 315360000) AS m,
                            pgmq_gateway.setting_number(s.settings, 'archive_retention', 1, 315360000) AS a
                     FROM pgmq_gateway.queue_settings s
                     JOIN pgmq.meta m ON m.queue_name = s.queue_name
                                     AND m.created_at = s.bound_created_at
                     WHERE s.settings ?| ARRAY['message_retention', 'archive_retention']
                       AND s.database_stamp = pgmq_gateway.database_stamp()
                       AND pgmq_gateway.is_name(s.queue_name)) r
                 WHERE r.m IS NOT NULL OR r.a IS NOT NULL;
END
$$;

-- Deletes those of the next messages that are past their retention and that nobody has in hand, and
-- remembers where to go on. True if there were some, and there are messages behind them. Another gateway
-- that is at the same queue is left to it.
CREATE FUNCTION pgmq_gateway.delete_expired_messages(
    queue text, retention_seconds bigint, max_rows integer
) RETURNS boolean LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp SET lock_timeout = '250ms' AS $$
DECLARE
    q_table regclass := pgmq_gateway.queue_table(queue);
    cursor_position bigint;
    looked record;
BEGIN
    PERFORM pgmq_gateway.require_unlocked(q_table);
    PERFORM pgmq_gateway.check_at_once();
    SELECT s.retention_cursor INTO cursor_position FROM pgmq_gateway.queue_settings s
    WHERE s.queue_name = queue FOR UPDATE SKIP LOCKED;
    IF cursor_position IS NULL THEN
        RETURN false;
    END IF;
    EXECUTE format(
        'SELECT count(*) = $2 AS is_full, max(n.msg_id) AS last,
                array_agg(n.msg_id) FILTER (WHERE n.expired) AS expired
         FROM (SELECT q.msg_id, q.enqueued_at < now() - make_interval(secs => $3) AND q.vt <= now()
                                AS expired
               FROM %s q WHERE q.msg_id > $1 ORDER BY q.msg_id LIMIT $2) n', q_table
    ) INTO looked USING cursor_position, max_rows, retention_seconds;
    PERFORM pgmq_gateway.delete_rows(q_table, coalesce(looked.expired, '{}'));
    UPDATE pgmq_gateway.queue_settings s
    SET retention_cursor = CASE WHEN looked.is_full THEN looked.last ELSE 0 END
    WHERE s.queue_name = queue
      AND s.retention_cursor <> CASE WHEN looked.is_full THEN looked.last ELSE 0 END;
    RETURN looked.is_full AND looked.expired IS NOT NULL;
END
$$;

-- Deletes archived messages past their retention. True if there may be more.
CREATE FUNCTION pgmq_gateway.delete_expired_archive(
    queue text, retention_seconds bigint, max_rows integer
) RETURNS boolean LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp SET lock_timeout = '250ms' AS $$
DECLARE
    a_table regclass := pgmq_gateway.archive_table(queue);
    expired bigint[];
BEGIN
    PERFORM pgmq_gateway.require_unlocked(a_table);
    PERFORM pgmq_gateway.check_at_once();
    EXECUTE format(
        'SELECT array_agg(a.msg_id) FROM (
             SELECT a.msg_id FROM %s a WHERE a.archived_at < now() - make_interval(secs => $1)
             ORDER BY a.archived_at LIMIT $2 %s) a', a_table, pgmq_gateway.row_lock(a_table)
    ) INTO expired USING retention_seconds, max_rows;
    RETURN pgmq_gateway.delete_rows(a_table, coalesce(expired, '{}')) = max_rows;
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
