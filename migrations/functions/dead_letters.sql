-- Messages that were delivered in vain, and their way back.

-- How many times a message was delivered, not counting what happened before it came into a
-- dead-letter queue. Headers that claim more than there was don't count.
CREATE FUNCTION pgmq_gateway.deliveries(read_ct integer, headers jsonb)
RETURNS integer LANGUAGE sql IMMUTABLE AS $$
    SELECT read_ct - CASE
        WHEN jsonb_typeof(headers -> 'x-dead-letter-read-ct') = 'number'
         AND (headers ->> 'x-dead-letter-read-ct')::numeric BETWEEN 0 AND read_ct
        THEN (headers ->> 'x-dead-letter-read-ct')::numeric::integer
        ELSE 0
    END
$$;

-- The condition that a message `q` was delivered so often that it is not delivered again; `$n` is
-- the number.
CREATE FUNCTION pgmq_gateway.is_dead(relation regclass, max_receives text)
RETURNS text LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN format('pgmq_gateway.deliveries(q.read_ct, %s) >= %s',
                  CASE WHEN pgmq_gateway.has_column(relation, 'headers')
                       THEN 'q.headers' ELSE 'NULL' END, max_receives);
END
$$;

-- Moves messages into the queue `target` or, without one, into the archive, with their history in
-- their headers. Returns how many there were.
CREATE FUNCTION pgmq_gateway.dead_letter(queue text, ids bigint[], target text)
RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    source regclass := pgmq_gateway.queue_table(queue);
    destination regclass := CASE WHEN target IS NOT NULL THEN
        to_regclass(format('pgmq.%I', pgmq.format_table_name(target, 'q'))) END;
    to_archive boolean := destination IS NULL;
    columns text := 'read_ct, enqueued_at, vt, message';
    vals text;
    moved integer;
BEGIN
    IF to_archive THEN
        destination := format('pgmq.%I', pgmq.format_table_name(queue, 'a'))::regclass;
        columns := 'msg_id, ' || columns;
    END IF;
    IF pgmq_gateway.has_column(source, 'last_read_at')
       AND pgmq_gateway.has_column(destination, 'last_read_at') THEN
        columns := columns || ', last_read_at';
    END IF;
    vals := columns;
    IF NOT to_archive THEN
        IF NOT (pgmq_gateway.has_column(source, 'headers')
                AND pgmq_gateway.has_column(destination, 'headers')) THEN
            -- Without headers there is no telling which deliveries were elsewhere.
            vals := replace(vals, 'read_ct', '0');
        END IF;
        vals := replace(vals, 'vt', 'clock_timestamp()');
        IF pgmq_gateway.has_fifo_index(target) THEN
            PERFORM pgmq_gateway.send_in_turn(target);
        END IF;
    END IF;
    IF pgmq_gateway.has_column(source, 'headers')
       AND pgmq_gateway.has_column(destination, 'headers') THEN
        columns := columns || ', headers';
        vals := vals || $headers$,
            CASE jsonb_typeof(headers) WHEN 'object' THEN headers ELSE '{}' END
            || jsonb_build_object(
                'x-dead-letter-queue', $2, 'x-dead-letter-msg-id', msg_id,
                'x-dead-letter-read-ct', read_ct, 'x-dead-letter-at',
                to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'))
        $headers$;
    END IF;
    EXECUTE format(
        'WITH gone AS (DELETE FROM %s m WHERE m.msg_id = ANY ($1) RETURNING m.*)
         INSERT INTO %s (%s) SELECT %s FROM gone ORDER BY msg_id',
        source, destination, columns, vals
    ) USING ids, queue;
    GET DIAGNOSTICS moved = ROW_COUNT;
    RETURN moved;
END
$$;

-- Moves those of the next messages away that were delivered often enough, so that what is good
-- stands in front. Returns how many there were.
CREATE FUNCTION pgmq_gateway.bury(
    queue text, max_messages integer, filter jsonb, by_id boolean, max_receives integer,
    target text
) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    q_table regclass := pgmq_gateway.queue_table(queue);
    dead bigint[];
    total integer := 0;
BEGIN
    -- Bounded: who comes next goes on.
    FOR round IN 1..20 LOOP
        EXECUTE format(
            'SELECT array_agg(d.msg_id) FROM (
                SELECT q.msg_id FROM %1$s q WHERE q.msg_id = ANY (ARRAY(
                    SELECT q.msg_id FROM (
                        SELECT * FROM %1$s q WHERE q.vt <= statement_timestamp() %2$s
                        ORDER BY %3$s LIMIT $1) q
                    WHERE %4$s))
                  AND q.vt <= statement_timestamp() AND %4$s FOR UPDATE SKIP LOCKED) d',
            q_table, CASE WHEN filter IS NULL THEN '' ELSE 'AND q.message @> $3' END,
            CASE WHEN by_id THEN 'q.msg_id' ELSE 'q.vt' END,
            pgmq_gateway.is_dead(q_table, '$2')
        ) INTO dead USING greatest(max_messages, 10), max_receives, filter;
        EXIT WHEN dead IS NULL;
        BEGIN
            total := total + pgmq_gateway.dead_letter(queue, dead, target);
        EXCEPTION WHEN OTHERS THEN
            -- They are not delivered, and do not keep others from being delivered.
            RAISE WARNING 'dead letters of % stay: %', queue, SQLERRM;
            EXIT;
        END;
    END LOOP;
    RETURN total;
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

-- As redrive without a target, for a caller that may not send to every queue: `allowed` is a regular expression for the
-- names of those that it may, and what came from another one stays.
CREATE FUNCTION pgmq_gateway.redrive_within(
    queue text, after_msg_id bigint, max_messages integer, allowed text,
    OUT moved integer, OUT last_id bigint
) LANGUAGE plpgsql AS $$
DECLARE
    source regclass := pgmq_gateway.queue_table(queue);
    looked_at bigint[] := '{}';
    batch record;
BEGIN
    moved := 0;
    IF NOT pgmq_gateway.has_column(source, 'headers') THEN
        RAISE EXCEPTION 'a redrive without `to` needs PGMQ 1.5.0 or later' USING ERRCODE = 'PGW01';
    END IF;
    FOR batch IN EXECUTE format(
        'SELECT c.origin, array_agg(c.msg_id) AS ids FROM (
            SELECT m.headers ->> ''x-dead-letter-queue'' AS origin, m.msg_id FROM %s m
            WHERE m.msg_id > $1 AND m.vt <= statement_timestamp()
            ORDER BY m.msg_id LIMIT $2 FOR UPDATE SKIP LOCKED) c
         GROUP BY c.origin ORDER BY c.origin', source
    ) USING after_msg_id, max_messages LOOP
        looked_at := looked_at || batch.ids;
        IF batch.origin <> queue AND batch.origin ~ allowed
           AND EXISTS (SELECT FROM pgmq.meta m WHERE m.queue_name = batch.origin) THEN
            moved := moved + pgmq_gateway.move_back(source, batch.origin, batch.ids);
        END IF;
    END LOOP;
    IF cardinality(looked_at) = max_messages THEN
        last_id := (SELECT max(id) FROM unnest(looked_at) AS l (id));
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
