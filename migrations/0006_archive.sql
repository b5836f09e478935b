-- The archive: looking at it, taking back from it, and forgetting what is old.

-- Archived messages in order of msg_id.
CREATE FUNCTION pgmq_gateway.browse_archive(
    queue text, after_msg_id bigint, max_messages integer, since timestamptz, until timestamptz,
    filter jsonb
) RETURNS TABLE (
    msg_id bigint, read_ct integer, enqueued_at timestamptz, last_read_at timestamptz,
    vt timestamptz, message jsonb, headers jsonb, relation oid, archived_at timestamptz
) LANGUAGE plpgsql STABLE AS $$
DECLARE
    a_table regclass := format('pgmq.%I', pgmq.format_table_name(queue, 'a'))::regclass;
BEGIN
    RETURN QUERY EXECUTE format(
        'SELECT %s, 0::oid, m.archived_at FROM %s m WHERE m.msg_id > $1 AND %s
         ORDER BY m.msg_id LIMIT $2',
        pgmq_gateway.columns(a_table), a_table, pgmq_gateway.archive_condition()
    ) USING after_msg_id, max_messages, since, until, filter, NULL::bigint[];
END
$$;

-- Which archived messages `m` are meant, with since, until, filter and ids in $3 to $6.
CREATE FUNCTION pgmq_gateway.archive_condition()
RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT '($3 IS NULL OR m.archived_at >= $3) AND ($4 IS NULL OR m.archived_at < $4)
            AND ($5 IS NULL OR m.message @> $5) AND ($6 IS NULL OR m.msg_id = ANY ($6))'
$$;

-- How many archived messages are meant, at most `max_messages`.
CREATE FUNCTION pgmq_gateway.count_archived(
    queue text, max_messages bigint, since timestamptz, until timestamptz, filter jsonb,
    ids bigint[]
) RETURNS bigint LANGUAGE plpgsql STABLE AS $$
DECLARE
    counted bigint;
BEGIN
    EXECUTE format(
        'SELECT count(*) FROM (SELECT FROM pgmq.%I m WHERE m.msg_id > $1 AND %s LIMIT $2) c',
        pgmq.format_table_name(queue, 'a'), pgmq_gateway.archive_condition()
    ) INTO counted USING 0, max_messages, since, until, filter, ids;
    RETURN counted;
END
$$;

-- Moves the next archived messages into a queue, as new ones. `last_id` is where to go on, null when
-- there are no more.
CREATE FUNCTION pgmq_gateway.replay(
    queue text, target text, after_msg_id bigint, max_messages integer, since timestamptz,
    until timestamptz, filter jsonb, ids bigint[], OUT moved integer, OUT last_id bigint
) LANGUAGE plpgsql AS $$
DECLARE
    a_table regclass := format('pgmq.%I', pgmq.format_table_name(queue, 'a'))::regclass;
    chosen bigint[];
BEGIN
    EXECUTE format(
        'SELECT array_agg(c.msg_id) FROM (
            SELECT m.msg_id FROM %s m WHERE m.msg_id > $1 AND %s
            ORDER BY m.msg_id LIMIT $2 FOR UPDATE SKIP LOCKED) c',
        a_table, pgmq_gateway.archive_condition()
    ) INTO chosen USING after_msg_id, max_messages, since, until, filter, ids;
    moved := pgmq_gateway.move_back(a_table, target, coalesce(chosen, '{}'));
    IF cardinality(chosen) = max_messages THEN
        last_id := chosen[max_messages];
    END IF;
END
$$;

-- Moves messages from a table into a queue, as new ones: without the deliveries they had, and without
-- what dead-lettering wrote into their headers.
CREATE FUNCTION pgmq_gateway.move_back(source regclass, target text, ids bigint[])
RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    destination regclass := pgmq_gateway.queue_table(target);
    has_headers boolean := pgmq_gateway.has_column(source, 'headers')
                       AND pgmq_gateway.has_column(destination, 'headers');
    moved integer;
BEGIN
    IF pgmq_gateway.has_fifo_index(target) THEN
        PERFORM pgmq_gateway.send_in_turn(target);
    END IF;
    EXECUTE format(
        'WITH gone AS (DELETE FROM %s m WHERE m.msg_id = ANY ($1) RETURNING m.*)
         INSERT INTO %s (vt, message %s)
         SELECT clock_timestamp(), g.message %s FROM gone g ORDER BY g.msg_id',
        source, destination, CASE WHEN has_headers THEN ', headers' ELSE '' END,
        CASE WHEN has_headers THEN ', pgmq_gateway.headers_anew(g.headers)' ELSE '' END
    ) USING ids;
    GET DIAGNOSTICS moved = ROW_COUNT;
    RETURN moved;
END
$$;

-- The headers of a message that begins anew.
CREATE FUNCTION pgmq_gateway.headers_anew(headers jsonb)
RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE
        WHEN jsonb_typeof(headers) IS DISTINCT FROM 'object' OR NOT headers ? 'x-dead-letter-queue'
        THEN headers
        ELSE nullif(headers - ARRAY['x-dead-letter-queue', 'x-dead-letter-msg-id',
                                    'x-dead-letter-read-ct', 'x-dead-letter-at'], '{}')
    END
$$;

-- Moves the next messages of a dead-letter queue that nobody has in hand to the queue that each came
-- from, or all to `target`. Those whose queue is not known, or is gone, stay. `last_id` is where to go
-- on, null when there are no more.
CREATE FUNCTION pgmq_gateway.redrive(
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
        RETURN;
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

-- Drops a queue with what belongs to it; false where there is none.
CREATE FUNCTION pgmq_gateway.drop_queue(queue text)
RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    partitioned boolean := (SELECT m.is_partitioned FROM pgmq.meta m WHERE m.queue_name = queue);
    dropped boolean;
BEGIN
    IF to_regprocedure('pgmq.drop_queue(text)') IS NOT NULL THEN
        dropped := pgmq.drop_queue(queue);
    ELSE
        dropped := pgmq.drop_queue(queue, coalesce(partitioned, false));
    END IF;
    DELETE FROM pgmq_gateway.queue_settings s WHERE s.queue_name = queue;
    RETURN dropped;
END
$$;

-- As before, without what older PGMQs lack.
CREATE OR REPLACE FUNCTION pgmq_gateway.metrics(
    queue text, OUT queue_length bigint, OUT queue_visible_length bigint, OUT in_flight bigint,
    OUT newest_msg_age_sec integer, OUT oldest_msg_age_sec integer, OUT total_messages bigint,
    OUT scrape_time timestamptz
) LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format(
        'SELECT count(*), count(*) FILTER (WHERE m.vt <= now()),
                count(*) FILTER (WHERE m.vt > now() AND m.read_ct > 0),
                extract(epoch FROM now() - max(m.enqueued_at))::integer,
                extract(epoch FROM now() - min(m.enqueued_at))::integer, now()
         FROM %s m', pgmq_gateway.queue_table(queue)
    ) INTO queue_length, queue_visible_length, in_flight, newest_msg_age_sec, oldest_msg_age_sec,
           scrape_time;
    EXECUTE format('SELECT CASE WHEN s.is_called THEN s.last_value ELSE 0 END FROM pgmq.%I s',
                   pgmq.format_table_name(queue, 'q') || '_msg_id_seq') INTO total_messages;
END
$$;

CREATE OR REPLACE FUNCTION pgmq_gateway.is_readable(queue text, id bigint)
RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    q_table regclass := pgmq_gateway.queue_table(queue);
    size bigint;
BEGIN
    EXECUTE format(
        'SELECT octet_length(m.message::text)::bigint + coalesce(octet_length(%s), 0)
         FROM %s m WHERE m.msg_id = $1',
        CASE WHEN pgmq_gateway.has_column(q_table, 'headers') THEN 'm.headers::text' ELSE 'NULL' END,
        q_table
    ) INTO size USING id;
    RETURN coalesce(size, 0) < 1000000000;
EXCEPTION WHEN program_limit_exceeded OR out_of_memory THEN
    RETURN false;
END
$$;

CREATE OR REPLACE FUNCTION pgmq_gateway.quarantine(
    queue text, max_messages integer, max_expanded bigint
) RETURNS SETOF bigint LANGUAGE plpgsql AS $$
DECLARE
    q_table regclass := pgmq_gateway.queue_table(queue);
    headers text := CASE WHEN pgmq_gateway.has_column(q_table, 'headers')
                         THEN 'm.headers' ELSE 'NULL' END;
    candidate bigint;
BEGIN
    IF max_expanded IS NULL THEN
        FOR candidate IN EXECUTE format(
            'SELECT m.msg_id FROM %s m WHERE m.vt <= clock_timestamp()
             ORDER BY m.msg_id LIMIT $1', q_table
        ) USING max_messages
        LOOP
            IF NOT pgmq_gateway.is_readable(queue, candidate) AND pgmq.archive(queue, candidate) THEN
                RETURN NEXT candidate;
            END IF;
        END LOOP;
        RETURN;
    END IF;
    FOR candidate IN EXECUTE format(
        $query$
        SELECT m.msg_id FROM (
            SELECT * FROM %s next WHERE next.vt <= clock_timestamp()
            ORDER BY next.msg_id LIMIT $1
        ) m
        WHERE coalesce(pgmq_gateway.expanded_size(m.message), 0)
            + coalesce(pgmq_gateway.expanded_size(%s), 0) > $2
        $query$, q_table, headers
    ) USING max_messages, max_expanded
    LOOP
        IF pgmq.archive(queue, candidate) THEN
            RETURN NEXT candidate;
        END IF;
    END LOOP;
END
$$;
