-- One statement for several queues, so that they share its round trip and its commit. Each queue's part is a
-- subtransaction, and what it comes to is said for it alone:
--
-- `done`      as the row says;
-- `retry`     nothing was done: its queue has to be served by a statement of its own, which tells why;
-- `separate`  the same, and so it will be for a while: the table is no plain one, so that it may take long, or it
--             may take some of the rows and refuse others.
--
-- A queue that is locked delays the others by a few milliseconds at most, and what comes after a tenth of a second
-- is left to statements of its own. Tables are read by their indexes, however small they are thought to be: to scan
-- a table and to sort it is dearer, for each of many queues, than it looks.

-- Stores messages in several queues: the first has `counts[1]` of them, and so on; those of a queue are stored all
-- or none, and their ids are in order. The messages and headers are bytes of UTF-8: one that is no JSON of
-- PostgreSQL's is a matter of its queue alone. Otherwise as `send`. What is known of the tables is said and told as
-- by `known_tables`.
CREATE FUNCTION pgmq_gateway.send_to_queues(
    queues text[], counts integer[], messages bytea[], headers bytea[], delays integer[],
    visible_at timestamptz[],
    known_oids oid[] DEFAULT NULL, known_versions text[] DEFAULT NULL, known_names text[] DEFAULT NULL,
    known_shapes integer[] DEFAULT NULL, known_ids bigint[] DEFAULT NULL
) RETURNS TABLE (
    place integer, outcome text, ids bigint[],
    table_oid oid, version text, table_name text, shape integer, queue_id bigint
) LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp SET lock_timeout = '5ms' SET enable_seqscan = off SET jit = off
SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    known record := pgmq_gateway.known_tables(
        queues, known_oids, known_versions, known_names, known_shapes, known_ids);
    tables text[] := known.tables;
    shapes integer[] := known.shapes;
    is_new boolean[] := known.is_new;
    started timestamptz := clock_timestamp();
    first integer := 1;
    last integer;
    id bigint;
BEGIN
    PERFORM pgmq_gateway.require_own_session();
    FOR n IN 1..cardinality(queues) LOOP
        place := n;
        ids := NULL;
        last := first + counts[n] - 1;
        IF tables[n] IS NULL OR clock_timestamp() - started > interval '100 ms' THEN
            outcome := CASE WHEN tables[n] IS NULL AND known.is_there[n] THEN 'separate' ELSE 'retry' END;
        ELSE
            BEGIN
                outcome := 'done';
                IF counts[n] = 1 AND headers[first] IS NULL THEN
                    -- Nothing that the table would have to fill in is left to it: that is dearer than to say it.
                    EXECUTE '/* pgmq_gateway */ INSERT INTO ' || tables[n]
                        || CASE WHEN shapes[n] & 4 <> 0
                                THEN ' (vt, message, read_ct, enqueued_at) VALUES ($1, $2, 0, $3) RETURNING msg_id'
                                ELSE ' (vt, message) VALUES ($1, $2) RETURNING msg_id' END
                    INTO STRICT id
                    USING pgmq_gateway.moment(visible_at[first], delays[first]),
                          convert_from(messages[first], 'UTF8')::jsonb, now();
                    ids := ARRAY[id];
                ELSE
                    ids := pgmq_gateway.store_plainly(
                        tables[n], shapes[n], messages[first:last], headers[first:last], delays[first:last],
                        visible_at[first:last]);
                END IF;
            EXCEPTION WHEN OTHERS OR assert_failure THEN
                outcome := 'retry';
                ids := NULL;
                PERFORM pgmq_gateway.lose_patience(SQLSTATE);
            END;
        END IF;
        IF is_new[n] THEN
            table_oid := known.oids[n];
            version := known.versions[n];
            table_name := tables[n];
            shape := shapes[n];
            queue_id := known.queue_ids[n];
        ELSE
            table_oid := NULL;
        END IF;
        first := last + 1;
        RETURN NEXT;
    END LOOP;
END
$$;

-- Stores several messages, or such with headers, and returns their ids in order. Raises PGW23 if the table did not
-- take every row, and PGW05 if there are headers and it has no place for them.
CREATE FUNCTION pgmq_gateway.store_plainly(
    q_table text, shape integer, messages bytea[], headers bytea[], delays integer[], visible_at timestamptz[]
) RETURNS bigint[] LANGUAGE plpgsql AS $$
DECLARE
    ids bigint[];
    with_headers boolean := array_remove(headers, NULL) <> '{}';
BEGIN
    IF with_headers AND shape & 1 = 0 THEN
        RAISE SQLSTATE 'PGW05';
    END IF;
    EXECUTE concat('WITH stored AS (', pgmq_gateway.plain_insert(q_table, shape, with_headers),
                   ' RETURNING msg_id) SELECT array_agg(s.msg_id) FROM stored s')
    INTO ids USING messages, delays, visible_at, now(), 0, headers;
    IF coalesce(cardinality(ids), 0) <> cardinality(messages) THEN
        RAISE SQLSTATE 'PGW23';
    END IF;
    RETURN ids;
END
$$;

-- Deletes messages of several queues or, as the `action` says, moves them into their archives: the first queue has
-- `counts[1]` of them, and so on. Returns which were: what became of the others is for a statement of their queue
-- to tell. A message of which it is said at which delivery it is to be (`read_cts`, `read_stamps`, `queue_ids`) is
-- left where it is not. What is known of the tables is said and told as by `known_tables`.
CREATE FUNCTION pgmq_gateway.end_in_queues(
    action text, queues text[], counts integer[], ids bigint[], read_cts integer[], read_stamps bigint[],
    queue_ids bigint[],
    known_oids oid[] DEFAULT NULL, known_versions text[] DEFAULT NULL, known_names text[] DEFAULT NULL,
    known_shapes integer[] DEFAULT NULL, known_ids bigint[] DEFAULT NULL
) RETURNS TABLE (
    place integer, outcome text, ended bigint[],
    table_oid oid, version text, table_name text, shape integer, queue_id bigint
) LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp SET lock_timeout = '5ms' SET enable_seqscan = off SET jit = off
SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    known record := pgmq_gateway.known_tables(
        queues, known_oids, known_versions, known_names, known_shapes, known_ids);
    tables text[] := known.tables;
    shapes integer[] := known.shapes;
    this_ids bigint[] := known.queue_ids;
    is_new boolean[] := known.is_new;
    archives record := known;
    started timestamptz := clock_timestamp();
    first integer := 1;
    last integer;
BEGIN
    IF pgmq_gateway.session_has_changed() THEN
        PERFORM pgmq_gateway.require_own_session();
    END IF;
    IF action = 'archive' THEN
        archives := pgmq_gateway.plain_tables(queues, 'a');
    END IF;
    FOR n IN 1..cardinality(queues) LOOP
        place := n;
        ended := NULL;
        last := first + counts[n] - 1;
        IF tables[n] IS NULL AND known.is_there[n]
           OR archives.tables[n] IS NULL AND archives.is_there[n] THEN
            outcome := 'separate';
        ELSIF tables[n] IS NULL OR archives.tables[n] IS NULL
              OR clock_timestamp() - started > interval '100 ms' THEN
            outcome := 'retry';
        ELSE
            BEGIN
                outcome := 'done';
                IF read_cts IS NOT NULL AND this_ids[n] IS NULL THEN
                    this_ids[n] := pgmq_gateway.queue_id(queues[n]);
                END IF;
                IF action = 'delete' AND counts[n] = 1 THEN
                    ended := pgmq_gateway.delete_one(
                        tables[n], shapes[n], this_ids[n], ids[first], read_cts[first], read_stamps[first],
                        queue_ids[first]);
                ELSIF action = 'delete' AND read_cts IS NOT NULL THEN
                    ended := pgmq_gateway.delete_deliveries(
                        tables[n], shapes[n], this_ids[n], ids[first:last], read_cts[first:last],
                        read_stamps[first:last], queue_ids[first:last]);
                ELSE
                    ended := ids[first:last];
                    IF read_cts IS NOT NULL THEN
                        ended := pgmq_gateway.lock_deliveries(
                            tables[n], this_ids[n], ended, read_cts[first:last], read_stamps[first:last],
                            queue_ids[first:last]);
                    END IF;
                    IF pgmq_gateway.is_large(queues[n], ARRAY[action], ended) THEN
                        outcome := 'retry';
                        ended := NULL;
                    ELSIF action = 'archive' THEN
                        ended := pgmq_gateway.move_to_archive(queues[n], tables[n]::regclass, ended);
                    ELSE
                        ended := pgmq_gateway.delete_plainly(tables[n], ended);
                    END IF;
                END IF;
            EXCEPTION WHEN OTHERS OR assert_failure THEN
                outcome := 'retry';
                ended := NULL;
                PERFORM pgmq_gateway.lose_patience(SQLSTATE);
            END;
        END IF;
        IF is_new[n] THEN
            table_oid := known.oids[n];
            version := known.versions[n];
            table_name := tables[n];
            shape := shapes[n];
            queue_id := known.queue_ids[n];
        ELSE
            table_oid := NULL;
        END IF;
        first := last + 1;
        RETURN NEXT;
    END LOOP;
END
$$;

-- Deletes a message, if it is at the delivery that is said, where one is, and returns its id.
CREATE FUNCTION pgmq_gateway.delete_one(
    q_table text, shape integer, this_queue bigint, id bigint, read_ct integer, read_stamp bigint, queue_id bigint
) RETURNS bigint[] LANGUAGE plpgsql AS $$
DECLARE
    deleted bigint;
    stamp bigint;
BEGIN
    IF queue_id <> this_queue THEN
        RETURN '{}';
    END IF;
    EXECUTE '/* pgmq_gateway */ DELETE FROM ' || q_table || ' q WHERE q.msg_id = $1'
        || CASE WHEN read_ct IS NULL THEN ' RETURNING q.msg_id, NULL'
                WHEN shape & 2 = 0 THEN ' AND q.read_ct = $2 RETURNING q.msg_id, NULL'
                ELSE ' AND q.read_ct = $2 RETURNING q.msg_id, ' || pgmq_gateway.read_stamp_expression() END
    INTO deleted, stamp USING id, read_ct;
    IF deleted IS NULL THEN
        RETURN '{}';
    END IF;
    IF stamp <> read_stamp THEN
        RAISE SQLSTATE 'PGW24';
    END IF;
    RETURN ARRAY[deleted];
END
$$;

-- The same for several, of which some are at a delivery that is said. To plan the join takes longer than to delete a few
-- (see `delete_plainly`).
CREATE FUNCTION pgmq_gateway.delete_deliveries(
    q_table text, shape integer, this_queue bigint, ids bigint[], read_cts integer[], read_stamps bigint[],
    queue_ids bigint[]
) RETURNS bigint[] LANGUAGE plpgsql AS $$
DECLARE
    deleted bigint[];
    is_stale boolean;
BEGIN
    EXECUTE '/* pgmq_gateway */ WITH gone AS (
            DELETE FROM ' || q_table || ' q USING unnest($1, $2, $3, $4) AS w (msg_id, read_ct, stamp, queue_id)
            WHERE q.msg_id = w.msg_id AND (w.read_ct IS NULL OR q.read_ct = w.read_ct)
              AND (w.queue_id IS NULL OR w.queue_id = $5)
            RETURNING q.msg_id, '
        || CASE WHEN shape & 2 <> 0 THEN pgmq_gateway.read_stamp_expression() || ' <> w.stamp' ELSE 'false' END
        || ' AS is_stale)
        SELECT array_agg(g.msg_id), bool_or(g.is_stale) FROM gone g'
    INTO deleted, is_stale USING ids, read_cts, read_stamps, queue_ids, this_queue;
    IF is_stale THEN
        RAISE SQLSTATE 'PGW24';
    END IF;
    RETURN coalesce(deleted, '{}');
END
$$;

-- Whether what is to be archived is so large, as SQL clients can make it, that others would wait for its way to the
-- other table.
CREATE FUNCTION pgmq_gateway.is_large(queue text, actions text[], ids bigint[])
RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    is_so boolean := false;
    q_table regclass;
BEGIN
    IF 'archive' = ANY (actions) THEN
        q_table := pgmq_gateway.queue_table(queue);
        EXECUTE format(
            '/* pgmq_gateway */ SELECT coalesce(sum(pg_column_size(q.message) + %s), 0) > 1000000 FROM %s q
             WHERE q.msg_id = ANY ($1)',
            CASE WHEN pgmq_gateway.has_column(q_table, 'headers')
                 THEN 'coalesce(pg_column_size(q.headers), 0)' ELSE '0' END, q_table
        ) INTO is_so USING ids;
    END IF;
    RETURN is_so;
END
$$;

-- Deletes messages and returns the ids of those that were there.
CREATE FUNCTION pgmq_gateway.delete_plainly(q_table text, ids bigint[])
RETURNS bigint[] LANGUAGE plpgsql AS $$
DECLARE
    deleted bigint[];
BEGIN
    EXECUTE '/* pgmq_gateway */ WITH gone AS (DELETE FROM ' || q_table || ' q WHERE q.msg_id = ANY ($1)
            RETURNING q.msg_id) SELECT array_agg(g.msg_id) FROM gone g'
    INTO deleted USING ids;
    RETURN coalesce(deleted, '{}');
END
$$;

-- Locks those of the messages that are at the delivery that is said, where one is, and returns their ids.
CREATE FUNCTION pgmq_gateway.lock_deliveries(
    q_table text, this_queue bigint, ids bigint[], read_cts integer[], read_stamps bigint[], queue_ids bigint[]
) RETURNS bigint[] LANGUAGE plpgsql AS $$
DECLARE
    locked bigint[];
BEGIN
    EXECUTE format(
        '/* pgmq_gateway */ SELECT array_agg(l.msg_id) FROM (
             SELECT q.msg_id
             FROM %s q JOIN unnest($1, $2, $3, $4) AS w (msg_id, read_ct, stamp, queue_id)
               ON w.msg_id = q.msg_id
             WHERE q.msg_id = ANY ($1) AND coalesce(w.queue_id = $5, true)
               AND coalesce(w.read_ct = q.read_ct, true) AND coalesce(w.stamp = %s, true)
             ORDER BY q.msg_id FOR UPDATE OF q) l', q_table, pgmq_gateway.read_stamp_of(q_table))
    INTO locked USING ids, read_cts, read_stamps, queue_ids, this_queue;
    RETURN coalesce(locked, '{}');
END
$$;

-- Leases messages of several queues, up to `max_messages` of each, as `receive` does where it is asked for nothing but
-- the next ones. The last row of each queue has no message: it says what became of the queue. Where that is not
-- `done`, its rows before count for nothing. `due_in` is as for `receive`, and `took` the seconds that the read took.
-- What is known of the tables is said and told as by `known_tables`.
CREATE FUNCTION pgmq_gateway.receive_from_queues(
    queues text[], hide_seconds integer[], max_messages integer[], want_due boolean[],
    known_oids oid[] DEFAULT NULL, known_versions text[] DEFAULT NULL, known_names text[] DEFAULT NULL,
    known_shapes integer[] DEFAULT NULL, known_ids bigint[] DEFAULT NULL
) RETURNS TABLE (
    place integer, msg_id bigint, read_ct integer, enqueued_at timestamptz, last_read_at timestamptz,
    vt timestamptz, message jsonb, headers jsonb, queue_id bigint, outcome text, due_in float8, took float8,
    table_oid oid, version text, table_name text, shape integer
) LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp SET lock_timeout = '5ms' SET enable_seqscan = off SET jit = off
SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    -- What is stored in more bytes than this can take long to be read out: it may be compressed. Others would wait.
    MOST_BYTES CONSTANT integer := 16384;
    known record := pgmq_gateway.known_tables(
        queues, known_oids, known_versions, known_names, known_shapes, known_ids);
    tables text[] := known.tables;
    shapes integer[] := known.shapes;
    ids bigint[] := known.queue_ids;
    is_new boolean[] := known.is_new;
    started timestamptz := clock_timestamp();
    began timestamptz := started;
    ended timestamptz;
    statement text;
    found_count integer;
BEGIN
    PERFORM pgmq_gateway.require_own_session();
    FOR n IN 1..cardinality(queues) LOOP
        place := n;
        due_in := NULL;
        IF tables[n] IS NULL OR began - started > interval '100 ms' THEN
            outcome := CASE WHEN tables[n] IS NULL AND known.is_there[n] THEN 'separate' ELSE 'retry' END;
        ELSE
            BEGIN
                outcome := NULL;
                found_count := 0;
                queue_id := coalesce(ids[n], pgmq_gateway.queue_id(queues[n]));
                statement := pgmq_gateway.lease_statement(tables[n], shapes[n]);
                IF max_messages[n] = 1 THEN
                    EXECUTE statement INTO msg_id, read_ct, enqueued_at, last_read_at, vt, message, headers
                    USING clock_timestamp() + make_interval(secs => hide_seconds[n]), clock_timestamp(),
                          statement_timestamp(), 1;
                    IF msg_id IS NOT NULL THEN
                        found_count := 1;
                        IF pg_column_size(message) + coalesce(pg_column_size(headers), 0) > MOST_BYTES THEN
                            RAISE SQLSTATE 'PGW24';
                        END IF;
                        RETURN NEXT;
                    END IF;
                ELSE
                    FOR msg_id, read_ct, enqueued_at, last_read_at, vt, message, headers IN EXECUTE statement
                        USING clock_timestamp() + make_interval(secs => hide_seconds[n]), clock_timestamp(),
                              statement_timestamp(), max_messages[n]
                    LOOP
                        found_count := found_count + 1;
                        IF pg_column_size(message) + coalesce(pg_column_size(headers), 0) > MOST_BYTES THEN
                            RAISE SQLSTATE 'PGW24';
                        END IF;
                        RETURN NEXT;
                    END LOOP;
                END IF;
                IF want_due[n] AND found_count < max_messages[n] THEN
                    due_in := pgmq_gateway.due_in(tables[n]::regclass);
                END IF;
                outcome := 'done';
            EXCEPTION WHEN OTHERS OR assert_failure THEN
                outcome := CASE WHEN SQLSTATE = 'PGW24' THEN 'separate' ELSE 'retry' END;
                PERFORM pgmq_gateway.lose_patience(SQLSTATE);
            END;
        END IF;
        ended := clock_timestamp();
        took := extract(epoch FROM ended - began);
        began := ended;
        msg_id := NULL;
        message := NULL;
        headers := NULL;
        IF is_new[n] THEN
            table_oid := known.oids[n];
            version := known.versions[n];
            table_name := tables[n];
            shape := shapes[n];
            queue_id := ids[n];
        END IF;
        RETURN NEXT;
        table_oid := NULL;
    END LOOP;
END
$$;

-- The statement that leases up to $4 of the messages that are visible at $3, hidden until $1 and read at $2. It is
-- short, as it is parsed each time, and the moment is hidden from the planner as in `receive`.
CREATE FUNCTION pgmq_gateway.lease_statement(q_table text, shape integer)
RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    RETURN concat(
        '/* pgmq_gateway */ UPDATE ', q_table, ' SET vt = $1, read_ct = read_ct + 1',
        CASE WHEN shape & 2 <> 0 THEN ', last_read_at = $2' END,
        ' WHERE ctid = ANY (ARRAY(SELECT q.ctid FROM ', q_table,
        ' q WHERE q.vt <= (SELECT $3) ORDER BY q.vt LIMIT $4 FOR UPDATE SKIP LOCKED))',
        ' RETURNING msg_id, read_ct, enqueued_at, ',
        CASE WHEN shape & 2 <> 0 THEN 'last_read_at' ELSE 'NULL::timestamptz' END,
        ', vt, message, ', CASE WHEN shape & 1 <> 0 THEN 'headers' ELSE 'NULL::jsonb' END);
END
$$;
