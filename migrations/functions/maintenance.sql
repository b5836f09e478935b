-- Forgetting what is past its time.

-- One small step of what has to be forgotten, unless another gateway is at it: messages and archived
-- messages past their queue's retention, idempotency keys past theirs, settings of queues that are
-- gone. True if there is more to do.
CREATE FUNCTION pgmq_gateway.forget_old(key_lifetime_seconds integer, max_rows integer)
RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    queue record;
    more boolean := false;
    deleted integer;
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtextextended('pgmq_gateway.forget_old', 0)) THEN
        RETURN false;
    END IF;
    FOR queue IN
        SELECT s.queue_name AS name, s.retention_cursor AS position,
               (s.settings ->> 'message_retention')::bigint AS messages,
               (s.settings ->> 'archive_retention')::bigint AS archive
        FROM pgmq_gateway.queue_settings s
        JOIN pgmq.meta m ON m.queue_name = s.queue_name AND m.created_at = s.queue_created_at
        WHERE s.settings ?| ARRAY['message_retention', 'archive_retention']
    LOOP
        BEGIN
            IF queue.messages IS NOT NULL THEN
                more := pgmq_gateway.forget_messages(queue.name, queue.messages, queue.position,
                                                     max_rows) OR more;
            END IF;
            IF queue.archive IS NOT NULL THEN
                EXECUTE format(
                    'DELETE FROM pgmq.%1$I m WHERE m.msg_id = ANY (ARRAY(
                         SELECT a.msg_id FROM pgmq.%1$I a
                         WHERE a.archived_at < now() - make_interval(secs => $1)
                         ORDER BY a.archived_at LIMIT $2))', pgmq.format_table_name(queue.name, 'a')
                ) USING queue.archive, max_rows;
                GET DIAGNOSTICS deleted = ROW_COUNT;
                more := more OR deleted = max_rows;
            END IF;
        EXCEPTION WHEN OTHERS THEN
            -- One queue that is out of reach does not keep the others.
            RAISE WARNING 'retention of %: %', queue.name, SQLERRM;
        END;
    END LOOP;
    DELETE FROM pgmq_gateway.idempotency_keys k WHERE (k.scope, k.key) IN (
        SELECT o.scope, o.key FROM pgmq_gateway.idempotency_keys o
        WHERE o.created_at < now() - make_interval(secs => key_lifetime_seconds)
        ORDER BY o.created_at LIMIT max_rows)
      -- One that was claimed anew meanwhile is not old any more.
      AND k.created_at < now() - make_interval(secs => key_lifetime_seconds);
    GET DIAGNOSTICS deleted = ROW_COUNT;
    WITH gone AS MATERIALIZED (
        SELECT s.queue_name, s.queue_created_at FROM pgmq_gateway.queue_settings s
        WHERE NOT EXISTS (SELECT FROM pgmq.meta m WHERE m.queue_name = s.queue_name
                          AND m.created_at = s.queue_created_at)
    )
    DELETE FROM pgmq_gateway.queue_settings s USING gone g
    WHERE s.queue_name = g.queue_name AND s.queue_created_at = g.queue_created_at;
    RETURN more OR deleted = max_rows;
END
$$;

-- Deletes those of the next messages that are past their retention and that nobody has in hand, and
-- remembers where to go on. True if there were some, and there are messages behind them.
CREATE FUNCTION pgmq_gateway.forget_messages(
    queue text, retention_seconds bigint, after_msg_id bigint, max_rows integer
) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    looked record;
    next_position bigint;
BEGIN
    EXECUTE format(
        'WITH next AS (
            SELECT n.msg_id, n.enqueued_at < now() - make_interval(secs => $3)
                             AND n.vt <= now() AS old
            FROM pgmq.%1$I n WHERE n.msg_id > $1 ORDER BY n.msg_id LIMIT $2
         ), gone AS (
            DELETE FROM pgmq.%1$I m
            WHERE m.msg_id = ANY (ARRAY(SELECT n.msg_id FROM next n WHERE n.old))
              AND m.vt <= now()
         )
         SELECT count(*) = $2 AS is_full, max(n.msg_id) AS last, bool_or(n.old) AS some_old
         FROM next n',
        pgmq.format_table_name(queue, 'q')
    ) INTO looked USING after_msg_id, max_rows, retention_seconds;
    next_position := CASE WHEN looked.is_full THEN looked.last ELSE 0 END;
    UPDATE pgmq_gateway.queue_settings s SET retention_cursor = next_position
    WHERE s.queue_name = queue AND s.retention_cursor <> next_position;
    RETURN looked.is_full AND looked.some_old;
END
$$;
