-- Delivering messages and being told what became of them. What these functions return names the
-- table that a message stands in (`relation`), which no later queue of the same name has.

DROP FUNCTION pgmq_gateway.read(text, integer, integer, jsonb, boolean);
DROP FUNCTION pgmq_gateway.set_vt(text, bigint[], integer[], timestamptz[]);
DROP FUNCTION pgmq_gateway.send_batch(text, jsonb[], jsonb[], integer[], timestamptz[]);
DROP FUNCTION pgmq_gateway.peek(text, bigint, integer);

-- The table of a queue; fails as a statement on it would if there is none.
CREATE FUNCTION pgmq_gateway.queue_table(queue text)
RETURNS regclass LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN format('pgmq.%I', pgmq.format_table_name(queue, 'q'))::regclass;
END
$$;

-- A message's columns in the table `m`, in the order in which all functions return them. Tables of
-- older PGMQs lack some: they came with 1.5 (headers) and 1.10 (last_read_at).
CREATE FUNCTION pgmq_gateway.columns(relation regclass)
RETURNS text LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN format(
        -- PostgreSQL knows moments that no calendar has.
        'm.msg_id, m.read_ct, m.enqueued_at, %s,
         least(greatest(m.vt, ''0001-01-01 00:00+00''::timestamptz),
               ''9999-12-31 00:00+00''::timestamptz), m.message, %s',
        CASE WHEN pgmq_gateway.has_column(relation, 'last_read_at')
             THEN 'm.last_read_at' ELSE 'NULL::timestamptz' END,
        CASE WHEN pgmq_gateway.has_column(relation, 'headers')
             THEN 'm.headers' ELSE 'NULL::jsonb' END);
END
$$;

-- Refuses headers where there is no place for them.
CREATE FUNCTION pgmq_gateway.need_headers()
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'headers need PGMQ 1.5.0 or later' USING ERRCODE = 'PGW01';
END
$$;

-- Holds whoever else stores messages in a queue back until the end of the transaction: where
-- messages are read in order, those that are committed later must not have the smaller ids.
CREATE FUNCTION pgmq_gateway.send_in_turn(queue text)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('pgmq_gateway.send.' || queue, 0));
END
$$;

-- Stores messages that have a moment of visibility each, in order, as pgmq.send_batch (which has
-- one moment for all) does. `delays` counts seconds from now; `visible_at` wins where it is set.
CREATE FUNCTION pgmq_gateway.send_batch(
    queue text, messages jsonb[], headers jsonb[], delays integer[], visible_at timestamptz[],
    in_turn boolean
) RETURNS SETOF bigint LANGUAGE plpgsql AS $$
DECLARE
    relation regclass := pgmq_gateway.queue_table(queue);
    has_headers boolean := pgmq_gateway.has_column(relation, 'headers');
BEGIN
    IF in_turn THEN
        PERFORM pgmq_gateway.send_in_turn(queue);
    END IF;
    IF NOT has_headers AND EXISTS (SELECT FROM unnest(headers) h WHERE h IS NOT NULL) THEN
        PERFORM pgmq_gateway.need_headers();
    END IF;
    RETURN QUERY EXECUTE format(
        $query$
        INSERT INTO %s (vt, message %s)
        SELECT coalesce(new.visible_at, clock_timestamp() + make_interval(secs => new.delay)),
               new.message %s
        FROM unnest($1, $2, $3, $4) WITH ORDINALITY
             AS new (message, headers, delay, visible_at, place)
        ORDER BY new.place
        RETURNING msg_id
        $query$,
        relation,
        CASE WHEN has_headers THEN ', headers' ELSE '' END,
        CASE WHEN has_headers THEN ', new.headers' ELSE '' END
    ) USING messages, headers, delays, visible_at;
END
$$;

-- Messages in order of msg_id, leasing nothing.
CREATE FUNCTION pgmq_gateway.peek(queue text, after_msg_id bigint, max_messages integer)
RETURNS TABLE (
    msg_id bigint, read_ct integer, enqueued_at timestamptz, last_read_at timestamptz,
    vt timestamptz, message jsonb, headers jsonb, relation oid
) LANGUAGE plpgsql STABLE AS $$
DECLARE
    q_table regclass := pgmq_gateway.queue_table(queue);
BEGIN
    RETURN QUERY EXECUTE format(
        'SELECT %s, $3::oid FROM %s m WHERE m.msg_id > $1 ORDER BY m.msg_id LIMIT $2',
        pgmq_gateway.columns(q_table), q_table
    ) USING after_msg_id, max_messages, q_table;
END
$$;

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

-- Leases messages. As pgmq.read, but at a cost that does not grow with the messages in flight: it
-- walks the index on vt from its oldest entry, where pgmq.read walks all rows in order of msg_id.
-- The moment is statement_timestamp(), which is the same for the whole statement, so that the index
-- knows where to stop. What has been visible for longest comes first. The rows are updated by where
-- they stand, which leaves the planner no way to walk the whole table instead. A partitioned queue
-- has no such index, and is read by msg_id, as every queue is where `by_id` is wished.
--
-- With `max_receives`, messages that were delivered so often are moved away first. A last row without
-- msg_id tells how many (`dead`) and, with `want_due` and fewer messages than asked for, after how
-- many seconds the next hidden message becomes visible (`due_in`).
CREATE FUNCTION pgmq_gateway.receive(
    queue text, hide_seconds integer, max_messages integer, filter jsonb, by_id boolean,
    want_due boolean, max_receives integer, dead_letter_queue text
) RETURNS TABLE (
    msg_id bigint, read_ct integer, enqueued_at timestamptz, last_read_at timestamptz,
    vt timestamptz, message jsonb, headers jsonb, relation oid, due_in float8, dead integer
) LANGUAGE plpgsql AS $$
DECLARE
    q_table regclass := pgmq_gateway.queue_table(queue);
    stamps boolean := pgmq_gateway.has_column(q_table, 'last_read_at');
    found_count integer;
BEGIN
    dead := 0;
    by_id := by_id OR (SELECT c.relkind = 'p' FROM pg_catalog.pg_class c WHERE c.oid = q_table);
    IF max_receives IS NOT NULL THEN
        dead := pgmq_gateway.bury(queue, max_messages, filter, by_id, max_receives,
                                  dead_letter_queue);
    END IF;
    RETURN QUERY EXECUTE format(
        $query$
        UPDATE %1$s m
        SET vt = clock_timestamp() + make_interval(secs => $1), read_ct = m.read_ct + 1 %2$s
        WHERE m.%3$s = ANY (ARRAY(
            SELECT q.%3$s FROM %1$s q
            WHERE q.vt <= statement_timestamp() %4$s %5$s
            ORDER BY q.%6$s LIMIT $2 FOR UPDATE SKIP LOCKED
        ))
        RETURNING %7$s, $5::oid, NULL::float8, NULL::integer
        $query$,
        q_table,
        CASE WHEN stamps THEN ', last_read_at = clock_timestamp()' ELSE '' END,
        CASE WHEN by_id THEN 'msg_id' ELSE 'ctid' END,
        CASE WHEN filter IS NULL THEN '' ELSE 'AND q.message @> $3' END,
        CASE WHEN max_receives IS NULL THEN ''
             ELSE 'AND NOT ' || pgmq_gateway.is_dead(q_table, '$4') END,
        CASE WHEN by_id THEN 'msg_id' ELSE 'vt' END,
        pgmq_gateway.columns(q_table)
    ) USING hide_seconds, max_messages, filter, max_receives, q_table;
    GET DIAGNOSTICS found_count = ROW_COUNT;
    IF want_due AND found_count < max_messages THEN
        due_in := pgmq_gateway.due_in(pgmq.format_table_name(queue, 'q'));
    END IF;
    IF due_in IS NOT NULL OR dead > 0 THEN
        RETURN NEXT;
    END IF;
END
$$;

-- Reads messages and deletes them at once.
CREATE FUNCTION pgmq_gateway.pop(
    queue text, max_messages integer, by_id boolean, max_receives integer, dead_letter_queue text
) RETURNS TABLE (
    msg_id bigint, read_ct integer, enqueued_at timestamptz, last_read_at timestamptz,
    vt timestamptz, message jsonb, headers jsonb, relation oid
) LANGUAGE plpgsql AS $$
DECLARE
    q_table regclass := pgmq_gateway.queue_table(queue);
BEGIN
    by_id := by_id OR (SELECT c.relkind = 'p' FROM pg_catalog.pg_class c WHERE c.oid = q_table);
    IF max_receives IS NOT NULL THEN
        PERFORM pgmq_gateway.bury(queue, max_messages, NULL, by_id, max_receives,
                                  dead_letter_queue);
    END IF;
    RETURN QUERY EXECUTE format(
        $query$
        DELETE FROM %1$s m
        WHERE m.%2$s = ANY (ARRAY(
            SELECT q.%2$s FROM %1$s q WHERE q.vt <= statement_timestamp() %3$s
            ORDER BY q.%4$s LIMIT $1 FOR UPDATE SKIP LOCKED
        ))
        RETURNING %5$s, $3::oid
        $query$,
        q_table,
        CASE WHEN by_id THEN 'msg_id' ELSE 'ctid' END,
        CASE WHEN max_receives IS NULL THEN ''
             ELSE 'AND NOT ' || pgmq_gateway.is_dead(q_table, '$2') END,
        CASE WHEN by_id THEN 'msg_id' ELSE 'vt' END,
        pgmq_gateway.columns(q_table)
    ) USING max_messages, max_receives, q_table;
END
$$;

-- Deletes, archives or hides messages of one queue. An entry that says for which delivery it speaks
-- (`read_cts`, `relations`) is `stale` if the message has been delivered since, or stands in another
-- queue of the same name; without that it acts on the id alone. `missing` is what is not there, or
-- was dealt with by an earlier entry. Of several entries that hide a message the last one holds.
CREATE FUNCTION pgmq_gateway.settle(
    queue text, actions text[], ids bigint[], read_cts integer[], relations oid[],
    delays integer[], visible_at timestamptz[]
) RETURNS TABLE (place bigint, outcome text, vt timestamptz) LANGUAGE plpgsql AS $$
DECLARE
    q_table regclass := pgmq_gateway.queue_table(queue);
    locked bigint[];
    counts integer[];
    outcomes text[];
    chosen bigint[];
BEGIN
    -- In order of their ids, so that two of these wait for each other in one direction alone.
    EXECUTE format(
        'SELECT array_agg(q.msg_id), array_agg(q.read_ct) FROM (
            SELECT q.msg_id, q.read_ct FROM %s q WHERE q.msg_id = ANY ($1)
            ORDER BY q.msg_id FOR UPDATE) q', q_table
    ) INTO locked, counts USING ids;

    SELECT array_agg(CASE
               WHEN f.fits AND (f.place = f.ended OR f.ended IS NULL) THEN 'ok'
               WHEN f.fits OR (f.read_ct IS NULL AND f.relation_fits) THEN 'missing'
               ELSE 'stale' END ORDER BY f.place)
    INTO outcomes
    FROM (
        SELECT e.*, min(e.place) FILTER (WHERE e.fits AND e.action <> 'hide')
                        OVER (PARTITION BY e.msg_id) AS ended
        FROM (
            SELECT w.place, w.action, w.msg_id, l.read_ct,
                   coalesce(w.relation = q_table, true) AS relation_fits,
                   l.read_ct IS NOT NULL AND coalesce(w.relation = q_table, true)
                   AND coalesce(w.read_ct = l.read_ct, true) AS fits
            FROM unnest(actions, ids, read_cts, relations) WITH ORDINALITY
                 AS w (action, msg_id, read_ct, relation, place)
            LEFT JOIN unnest(locked, counts) AS l (msg_id, read_ct) ON l.msg_id = w.msg_id
        ) e
    ) f;

    chosen := ARRAY(SELECT w.msg_id FROM unnest(actions, ids, outcomes) AS w (action, msg_id, outcome)
                    WHERE w.action = 'delete' AND w.outcome = 'ok');
    IF chosen <> '{}' THEN
        EXECUTE format('DELETE FROM %s q WHERE q.msg_id = ANY ($1)', q_table) USING chosen;
    END IF;
    chosen := ARRAY(SELECT w.msg_id FROM unnest(actions, ids, outcomes) AS w (action, msg_id, outcome)
                    WHERE w.action = 'archive' AND w.outcome = 'ok');
    IF chosen <> '{}' THEN
        PERFORM pgmq.archive(queue, chosen);
    END IF;
    IF 'hide' = ANY (actions) THEN
        EXECUTE format(
            $query$
            UPDATE %s q SET vt = wish.visible_at
            FROM (
                SELECT DISTINCT ON (w.msg_id) w.msg_id,
                       coalesce(w.visible_at, clock_timestamp() + make_interval(secs => w.delay))
                       AS visible_at
                FROM unnest($1, $2, $3, $4, $5) WITH ORDINALITY
                     AS w (action, msg_id, delay, visible_at, outcome, place)
                WHERE w.action = 'hide' AND w.outcome = 'ok'
                ORDER BY w.msg_id, w.place DESC
            ) wish
            WHERE q.msg_id = wish.msg_id
            $query$, q_table
        ) USING actions, ids, delays, visible_at, outcomes;
    END IF;
    RETURN QUERY EXECUTE format(
        'SELECT w.place, w.outcome, q.vt FROM unnest($1, $2) WITH ORDINALITY
                AS w (outcome, msg_id, place) LEFT JOIN %s q ON q.msg_id = w.msg_id
         ORDER BY w.place', q_table
    ) USING outcomes, ids;
END
$$;

-- Hides messages, and shows those that were there as they are now.
CREATE FUNCTION pgmq_gateway.set_visibility(
    queue text, ids bigint[], read_cts integer[], relations oid[], delays integer[],
    visible_at timestamptz[]
) RETURNS TABLE (
    place bigint, outcome text, msg_id bigint, read_ct integer, enqueued_at timestamptz,
    last_read_at timestamptz, vt timestamptz, message jsonb, headers jsonb, relation oid
) LANGUAGE plpgsql AS $$
DECLARE
    q_table regclass := pgmq_gateway.queue_table(queue);
    outcomes text[] := ARRAY(
        SELECT s.outcome
        FROM pgmq_gateway.settle(queue, array_fill('hide'::text, ARRAY[cardinality(ids)]), ids,
                                 read_cts, relations, delays, visible_at) s
        ORDER BY s.place);
BEGIN
    RETURN QUERY EXECUTE format(
        'SELECT w.place, w.outcome, %s, $3::oid FROM unnest($1, $2) WITH ORDINALITY
                AS w (outcome, id, place)
         LEFT JOIN %s m ON m.msg_id = w.id AND w.outcome = ''ok''
         ORDER BY w.place', pgmq_gateway.columns(q_table), q_table
    ) USING outcomes, ids, q_table;
END
$$;

