-- Transactions of several clients that do nothing but send, or publish once, in one statement with one commit.
-- Nothing here takes a message from one format to another: what goes to a queue is one INSERT of the bytes that came.
--
-- This is for tables that store what they are given and nothing else. Where one is none, or anything else stands
-- against it, nothing is done: what shares a statement in another way (shared_transactions.sql) does the rest, or
-- tells what is wrong.

-- What the settings of queues say of what is stored there, in order; `is_listed` is whether PGMQ knows the queue.
CREATE FUNCTION pgmq_gateway.send_settings(
    queues text[], OUT is_listed boolean[], OUT max_bytes bigint[], OUT delays integer[]
) LANGUAGE plpgsql STABLE AS $$
BEGIN
    SELECT array_agg(m.queue_name IS NOT NULL ORDER BY q.place),
           array_agg(pgmq_gateway.setting_number(s.settings, 'max_message_bytes', 1, 67108864) ORDER BY q.place),
           array_agg(pgmq_gateway.setting_number(s.settings, 'delay', 0, 315360000)::integer ORDER BY q.place)
    INTO is_listed, max_bytes, delays
    FROM unnest(queues) WITH ORDINALITY AS q (queue, place)
    LEFT JOIN pgmq.meta m ON m.queue_name = q.queue
    LEFT JOIN pgmq_gateway.queue_settings s
      ON s.queue_name = m.queue_name
     AND pgmq_gateway.counts_for(s.bound_created_at, s.database_stamp, s.missing_since, m.created_at);
END
$$;

-- Stores messages, all or none. They are for destinations, of which the first has `counts[1]` of them, and so on: a
-- queue or, behind those, what a routing key leads to, as far as these queues are allowed. That may be so many queues
-- (`most_queues`), and the largest message has so many bytes as they count for the settings (`largest`). Says of
-- each what was stored where, in order. Where there are destinations of which that cannot be done, nothing is, and
-- those are named, without an `id`. What is known of the tables of the queues is said and told as by `known_tables`.
CREATE FUNCTION pgmq_gateway.send_together(
    queues text[], routing_keys text[], allowed_queues text[], most_queues integer[], counts integer[],
    largest bigint[], messages bytea[], headers bytea[], delays integer[], visible_at timestamptz[],
    known_oids oid[], known_versions text[], known_names text[], known_shapes integer[], known_ids bigint[]
) RETURNS TABLE (
    place integer, target text, id bigint,
    table_oid oid, version text, table_name text, shape integer, queue_id bigint
) LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp SET lock_timeout = '10ms' SET enable_seqscan = off SET jit = off
SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    -- Of each destination and queue.
    places integer[] := '{}';
    names text[] := '{}';
    of_place text[];
    tables record;
    settings record;
    is_hindered boolean := false;
    first integer := 1;
    last integer;
    at integer := 1;
    stored integer;
BEGIN
    PERFORM pgmq_gateway.require_own_session();
    FOR n IN 1..cardinality(queues) LOOP
        of_place := CASE WHEN routing_keys[n] IS NULL THEN queues[n:n]
                         ELSE pgmq_gateway.few_targets(routing_keys[n], allowed_queues[n]) END;
        IF of_place IS NULL OR cardinality(of_place) > most_queues[n] THEN
            place := n;
            is_hindered := true;
            RETURN NEXT;
        ELSE
            names := names || of_place;
            places := places || array_fill(n, ARRAY[cardinality(of_place)]);
        END IF;
    END LOOP;
    tables := pgmq_gateway.known_tables(
        names, known_oids, known_versions, known_names, known_shapes, known_ids);
    settings := pgmq_gateway.send_settings(names);
    FOR n IN 1..cardinality(names) LOOP
        IF tables.tables[n] IS NULL OR NOT settings.is_listed[n]
           OR largest[places[n]] > settings.max_bytes[n] THEN
            place := places[n];
            is_hindered := true;
            RETURN NEXT;
        END IF;
    END LOOP;
    IF is_hindered THEN
        RETURN;
    END IF;
    FOR n IN 1..cardinality(counts) LOOP
        last := first + counts[n] - 1;
        WHILE places[at] = n LOOP
            RETURN QUERY EXECUTE concat(
                pgmq_gateway.plain_insert(
                    tables.tables[at], tables.shapes[at], array_remove(headers[first:last], NULL) <> '{}'),
                ' RETURNING $7, $8, msg_id, $9, $10, $11, $12, $13')
                USING messages[first:last], delays[first:last], visible_at[first:last], now(),
                      coalesce(settings.delays[at], 0), headers[first:last], n, pgmq_gateway.as_text(names[at]),
                      CASE WHEN tables.is_new[at] THEN tables.oids[at] END, tables.versions[at],
                      tables.tables[at], tables.shapes[at], tables.queue_ids[at];
            GET DIAGNOSTICS stored = ROW_COUNT;
            IF stored <> counts[n] THEN
                RAISE SQLSTATE 'PGW23';
            END IF;
            at := at + 1;
        END LOOP;
        first := last + 1;
    END LOOP;
    PERFORM pgmq_gateway.check_at_once();
END
$$;
