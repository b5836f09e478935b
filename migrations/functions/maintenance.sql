-- Forgetting what is past its time, a little at a time. Several gateways may be at it at the same time:
-- nobody waits for what another one has locked.

-- Queues with a retention, in seconds.
CREATE FUNCTION pgmq_gateway.queues_with_retention()
RETURNS TABLE (queue text, message_retention bigint, archive_retention bigint)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp SET lock_timeout = '250ms' AS $$
BEGIN
    RETURN QUERY SELECT r.* FROM (
                     SELECT s.queue_name,
                            pgmq_gateway.setting_number(s.settings, 'message_retention', 1, 315360000) AS m,
                            pgmq_gateway.setting_number(s.settings, 'archive_retention', 1, 315360000) AS a
                     FROM pgmq_gateway.queue_settings s
                     JOIN pgmq.meta m ON m.queue_name = s.queue_name
                                     AND m.created_at = s.bound_created_at
                     WHERE s.settings ?| ARRAY['message_retention', 'archive_retention']
                       AND pgmq_gateway.is_of_here(s.database_stamp)
                       AND pgmq_gateway.is_name(s.queue_name)) r
                 WHERE r.m IS NOT NULL OR r.a IS NOT NULL;
END
$$;

-- Deletes those of the next messages that are past their retention and that nobody has in hand, and
-- remembers where to go on: of `max_rows` that are looked at, `max_deleted`, as a trigger may take as long as it likes for
-- each. `chosen` says how many that was to be, `more` that there were some, and there are messages behind them; `kept`
-- counts those that their table does not let go, `kept_code` says with which error. Another gateway that is
-- at the same queue is left to it.
CREATE FUNCTION pgmq_gateway.delete_expired_messages(
    queue text, retention_seconds bigint, max_rows integer, max_deleted integer,
    OUT chosen integer, OUT more boolean, OUT kept bigint, OUT kept_code text
) LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms' AS $$
DECLARE
    q_table regclass := pgmq_gateway.queue_table(queue);
    begins_behind bigint;
    goes_on bigint;
    looked record;
    expired bigint[];
BEGIN
    PERFORM pgmq_gateway.require_own_session();
    chosen := 0;
    more := false;
    kept := 0;
    PERFORM pgmq_gateway.require_unlocked(q_table);
    PERFORM pgmq_gateway.check_at_once();
    -- Not the row of its settings, which is the order of sends of a queue that is read in groups.
    IF NOT pg_try_advisory_xact_lock(hashtext('pgmq_gateway.retention_' || queue)) THEN
        RETURN;
    END IF;
    SELECT s.retention_cursor INTO begins_behind FROM pgmq_gateway.queue_settings s
    WHERE s.queue_name = queue;
    EXECUTE format(
        'SELECT count(*) = $2 AS is_full, max(n.msg_id) AS last,
                coalesce(array_agg(n.msg_id ORDER BY n.msg_id) FILTER (WHERE n.expired), ''{}'') AS expired
         FROM (SELECT q.msg_id, q.enqueued_at < now() - make_interval(secs => $3) AND q.vt <= now()
                                AS expired
               FROM %s q WHERE q.msg_id > $1 ORDER BY q.msg_id LIMIT $2) n', q_table
    ) INTO looked USING coalesce(begins_behind, 0), max_rows, retention_seconds;
    expired := looked.expired[:max_deleted];
    chosen := cardinality(expired);
    SELECT d.kept, d.kept_code INTO kept, kept_code
    FROM pgmq_gateway.delete_rows(q_table, expired, 'q.vt <= now()') d;
    goes_on := CASE WHEN cardinality(looked.expired) > max_deleted THEN expired[max_deleted]
                    WHEN looked.is_full THEN looked.last ELSE 0 END;
    UPDATE pgmq_gateway.queue_settings s SET retention_cursor = goes_on
    WHERE s.ctid = ANY (ARRAY(
        SELECT n.ctid FROM pgmq_gateway.queue_settings n
        WHERE n.queue_name = queue AND n.retention_cursor <> goes_on FOR UPDATE SKIP LOCKED));
    more := goes_on > 0 AND chosen > 0;
END
$$;

-- Deletes archived messages past their retention, beginning behind the first `skipped`. `more` says that
-- there may be more; the rest is as above.
CREATE FUNCTION pgmq_gateway.delete_expired_archive(
    queue text, retention_seconds bigint, max_deleted integer, skipped bigint,
    OUT chosen integer, OUT more boolean, OUT kept bigint, OUT kept_code text
) LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms' AS $$
DECLARE
    a_table regclass := pgmq_gateway.archive_table(queue);
    expired bigint[];
BEGIN
    PERFORM pgmq_gateway.require_own_session();
    PERFORM pgmq_gateway.require_unlocked(a_table);
    PERFORM pgmq_gateway.check_at_once();
    EXECUTE format(
        'SELECT coalesce(array_agg(a.msg_id), ''{}'') FROM (
             SELECT a.msg_id FROM %s a WHERE a.archived_at < now() - make_interval(secs => $1)
             ORDER BY a.archived_at LIMIT $2 OFFSET $3 %s) a', a_table, pgmq_gateway.row_lock(a_table)
    ) INTO expired USING retention_seconds, max_deleted, skipped;
    SELECT d.kept, d.kept_code INTO kept, kept_code
    FROM pgmq_gateway.delete_rows(a_table, expired) d;
    chosen := cardinality(expired);
    more := chosen = max_deleted;
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
