-- What goes wrong when several ask at once, and queues that SQL clients made with upper case in their
-- names: PGMQ folds it away in the table's, so that another spelling would reach it too.

-- The settings of all queues that have some, are read in groups, or have a table of another name.
CREATE OR REPLACE FUNCTION pgmq_gateway.all_settings()
RETURNS TABLE (queue text, settings jsonb, fifo boolean) LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN QUERY SELECT s.queue_name, s.settings, pgmq_gateway.has_fifo_index(s.queue_name)
                 FROM pgmq_gateway.queue_settings s
                 JOIN pgmq.meta m ON m.queue_name = s.queue_name
                                 AND m.created_at = s.queue_created_at
                 UNION ALL
                 SELECT m.queue_name::text, '{}', false FROM pgmq.meta m
                 WHERE m.queue_name <> lower(m.queue_name)
                   AND NOT EXISTS (SELECT FROM pgmq_gateway.queue_settings s
                                   WHERE s.queue_name = m.queue_name
                                     AND s.queue_created_at = m.created_at);
END
$$;

-- Who makes, changes and drops a queue takes turns; the lock is PGMQ's own.
CREATE FUNCTION pgmq_gateway.lock_queue(queue text)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('pgmq.queue_' || queue));
END
$$;

-- Drops a queue with what belongs to it; false where there is none of exactly this name. A name of
-- which the table is gone already is forgotten, and so is every other name of the table.
CREATE OR REPLACE FUNCTION pgmq_gateway.drop_queue(queue text)
RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    partitioned boolean;
BEGIN
    PERFORM pgmq_gateway.lock_queue(queue);
    SELECT m.is_partitioned INTO partitioned FROM pgmq.meta m WHERE m.queue_name = queue;
    IF partitioned IS NULL THEN
        RETURN false;
    END IF;
    IF to_regclass(format('pgmq.%I', pgmq.format_table_name(queue, 'q'))) IS NULL THEN
        RAISE NOTICE 'the table of % is gone', queue;
    ELSIF to_regprocedure('pgmq.drop_queue(text)') IS NOT NULL THEN
        PERFORM pgmq.drop_queue(queue);
    ELSE
        PERFORM pgmq.drop_queue(queue, partitioned);
    END IF;
    DELETE FROM pgmq_gateway.queue_settings s WHERE lower(s.queue_name) = lower(queue);
    DELETE FROM pgmq.meta m WHERE lower(m.queue_name) = lower(queue);
    RETURN true;
END
$$;

-- As before, one change after the other: PGMQ's notifications cannot be turned on by two at once.
CREATE OR REPLACE FUNCTION pgmq_gateway.change_settings(queue text, wishes jsonb)
RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    created timestamptz;
BEGIN
    PERFORM pgmq_gateway.lock_queue(queue);
    SELECT m.created_at INTO created FROM pgmq.meta m WHERE m.queue_name = queue;
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

-- As before; of several that ask at once, one binds.
CREATE OR REPLACE FUNCTION pgmq_gateway.bind(queue text, topic_pattern text)
RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pgmq_gateway.need_topics();
    PERFORM pgmq_gateway.lock_queue(queue);
    IF NOT EXISTS (SELECT FROM pgmq.meta m WHERE m.queue_name = queue) THEN
        RETURN 'no_queue';
    END IF;
    IF EXISTS (SELECT FROM pgmq.topic_bindings b
               WHERE b.pattern = topic_pattern AND b.queue_name = queue) THEN
        RETURN 'exists';
    END IF;
    PERFORM pgmq.bind_topic(topic_pattern, queue);
    RETURN 'bound';
EXCEPTION
    WHEN raise_exception THEN
        RETURN SQLERRM;
    WHEN foreign_key_violation THEN
        RETURN 'no_queue';
END
$$;

-- Deletes every message of a queue. Locked from the beginning: two that count first and then lock
-- would wait for each other, and what comes after the counting would go uncounted.
CREATE FUNCTION pgmq_gateway.purge(queue text)
RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', pgmq_gateway.queue_table(queue));
    RETURN pgmq.purge_queue(queue);
END
$$;

-- Moves the next messages of a dead-letter queue that nobody has in hand to the queue that each came
-- from, or all to `target`. Those whose queue is not known, or is gone, stay. `last_id` is where to go
-- on, null when there are no more.
CREATE OR REPLACE FUNCTION pgmq_gateway.redrive(
    queue text, target text, after_msg_id bigint, max_messages integer,
    OUT moved integer, OUT last_id bigint
) LANGUAGE plpgsql AS $$
DECLARE
    source regclass := pgmq_gateway.queue_table(queue);
    origin text := '$3';
    looked_at bigint[] := '{}';
    batch record;
BEGIN
    moved := 0;
    IF target IS NULL AND NOT pgmq_gateway.has_column(source, 'headers') THEN
        RAISE EXCEPTION 'a redrive without `to` needs PGMQ 1.5.0 or later' USING ERRCODE = 'PGW01';
    ELSIF target IS NULL THEN
        origin := 'm.headers ->> ''x-dead-letter-queue''';
    END IF;
    FOR batch IN EXECUTE format(
        'SELECT c.origin, array_agg(c.msg_id) AS ids FROM (
            SELECT %s AS origin, m.msg_id FROM %s m
            WHERE m.msg_id > $1 AND m.vt <= statement_timestamp()
            ORDER BY m.msg_id LIMIT $2 FOR UPDATE SKIP LOCKED) c
         GROUP BY c.origin ORDER BY c.origin', origin, source
    ) USING after_msg_id, max_messages, target LOOP
        looked_at := looked_at || batch.ids;
        IF batch.origin <> queue
           AND EXISTS (SELECT FROM pgmq.meta m WHERE m.queue_name = batch.origin) THEN
            moved := moved + pgmq_gateway.move_back(source, batch.origin, batch.ids);
        END IF;
    END LOOP;
    IF cardinality(looked_at) = max_messages THEN
        last_id := (SELECT max(id) FROM unnest(looked_at) AS l (id));
    END IF;
END
$$;
