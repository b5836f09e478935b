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

-- The tables of queues, or with `a` as `prefix` their archives, in order: null where there is none, and where it
-- is none that stores what it is given and nothing else. `is_there` tells these two apart; `has_headers` and
-- `has_stamps` say which columns there are besides those of every version of PGMQ. A trigger, a policy, a rule, a
-- check, a computed column, an index on an expression, a default that calls somebody's function or a type of
-- somebody's own can take as long as it likes.
CREATE FUNCTION pgmq_gateway.plain_tables(
    queues text[], prefix text, OUT tables text[], OUT is_there boolean[], OUT has_headers boolean[],
    OUT has_stamps boolean[]
) LANGUAGE plpgsql STABLE AS $$
BEGIN
    SELECT array_agg(CASE WHEN c.is_plain AND NOT a.is_costly
                              AND NOT EXISTS (SELECT FROM pg_catalog.pg_index i WHERE i.indrelid = q.relation
                                              AND (i.indexprs IS NOT NULL OR i.indpred IS NOT NULL))
                              AND NOT EXISTS (SELECT FROM pg_catalog.pg_attrdef d JOIN pg_catalog.pg_depend p
                                                ON p.classid = 'pg_catalog.pg_attrdef'::regclass
                                               AND p.objid = d.oid
                                               AND p.refclassid = 'pg_catalog.pg_proc'::regclass
                                              WHERE d.adrelid = q.relation)
                          THEN format('pgmq.%I', c.relname) END ORDER BY q.place),
           array_agg(c.relname IS NOT NULL ORDER BY q.place),
           array_agg(a.has_headers ORDER BY q.place), array_agg(a.has_stamps ORDER BY q.place)
    INTO tables, is_there, has_headers, has_stamps
    FROM (
        SELECT u.place, to_regclass(format('pgmq.%I', pgmq.format_table_name(u.queue, prefix))) AS relation
        FROM unnest(queues) WITH ORDINALITY AS u (queue, place) OFFSET 0
    ) q
    -- One at a time, by an index: a database can have very many tables.
    LEFT JOIN LATERAL (
        SELECT c.relname, c.relkind = 'r' AND c.relchecks = 0
                   AND NOT (c.relhastriggers OR c.relrowsecurity OR c.relhasrules OR c.relhassubclass
                            OR c.relispartition) AS is_plain
        FROM pg_catalog.pg_class c WHERE c.oid = q.relation LIMIT 1
    ) c ON true
    CROSS JOIN LATERAL (
        -- What comes with PostgreSQL has a number below 16384.
        SELECT coalesce(bool_or(a.attgenerated <> '' OR a.atttypid >= 16384), false) AS is_costly,
               coalesce(bool_or(a.attname = 'headers'), false) AS has_headers,
               coalesce(bool_or(a.attname = 'last_read_at'), false) AS has_stamps
        FROM pg_catalog.pg_attribute a
        WHERE a.attrelid = q.relation AND a.attnum > 0 AND NOT a.attisdropped
    ) a;
END
$$;

-- What `queue_id` says of queues, in order: null where that is not written down yet.
CREATE FUNCTION pgmq_gateway.known_queue_ids(queues text[])
RETURNS bigint[] LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN ARRAY(
        SELECT k.id FROM unnest(queues) WITH ORDINALITY AS u (queue, place)
        LEFT JOIN LATERAL (
            SELECT pgmq_gateway.queue_id_of(s.queue_created_at) AS id
            FROM pgmq.meta m JOIN pgmq_gateway.queue_settings s
              ON s.queue_name = m.queue_name AND s.bound_created_at = m.created_at
            WHERE m.queue_name = u.queue LIMIT 1
        ) k ON true ORDER BY u.place);
END
$$;

-- Not done with others, as it would hold them up.
CREATE FUNCTION pgmq_gateway.refuse_large()
RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    RAISE SQLSTATE 'PGW24';
END
$$;

-- Stores messages in several queues: the first has `counts[1]` of them, and so on; those of a queue are stored all
-- or none, and their ids are in order. The messages and headers are bytes of UTF-8: one that is no JSON of
-- PostgreSQL's is a matter of its queue alone. Otherwise as `send`.
CREATE FUNCTION pgmq_gateway.send_to_queues(
    queues text[], counts integer[], messages bytea[], headers bytea[], delays integer[],
    visible_at timestamptz[]
) RETURNS TABLE (place integer, outcome text, ids bigint[]) LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp SET lock_timeout = '5ms' SET enable_seqscan = off SET jit = off AS $$
DECLARE
    plain record;
    parsed record;
    started timestamptz := clock_timestamp();
    first integer := 1;
    last integer;
    id bigint;
BEGIN
    PERFORM pgmq_gateway.require_own_session();
    plain := pgmq_gateway.plain_tables(queues, 'q');
    FOR n IN 1..cardinality(queues) LOOP
        place := n;
        ids := NULL;
        last := first + counts[n] - 1;
        IF plain.tables[n] IS NULL OR clock_timestamp() - started > interval '100 ms' THEN
            outcome := CASE WHEN plain.tables[n] IS NULL AND plain.is_there[n] THEN 'separate' ELSE 'retry' END;
        ELSE
            BEGIN
                outcome := 'done';
                IF counts[n] = 1 AND headers[first] IS NULL THEN
                    EXECUTE format('/* pgmq_gateway */ INSERT INTO %s (vt, message) VALUES ($1, $2)
                                    RETURNING msg_id', plain.tables[n])
                    INTO STRICT id
                    USING pgmq_gateway.moment(visible_at[first], delays[first]),
                          convert_from(messages[first], 'UTF8')::jsonb;
                    ids := ARRAY[id];
                ELSE
                    SELECT array_agg(convert_from(new.message, 'UTF8')::jsonb) AS messages,
                           array_agg(convert_from(new.headers, 'UTF8')::jsonb) AS headers,
                           count(new.headers) > 0 AS with_headers
                    INTO parsed
                    FROM unnest(messages[first:last], headers[first:last]) AS new (message, headers);
                    IF parsed.with_headers AND NOT plain.has_headers[n] THEN
                        RAISE SQLSTATE 'PGW05';
                    END IF;
                    EXECUTE 'WITH stored AS ('
                        || pgmq_gateway.insert_statement(plain.tables[n]::regclass, plain.has_headers[n])
                        || ') SELECT array_agg(s.msg_id) FROM stored s'
                    INTO ids
                    USING parsed.messages, parsed.headers, delays[first:last], visible_at[first:last];
                    IF coalesce(cardinality(ids), 0) <> counts[n] THEN
                        RAISE SQLSTATE 'PGW23';
                    END IF;
                END IF;
            EXCEPTION WHEN OTHERS OR assert_failure THEN
                outcome := 'retry';
                ids := NULL;
                PERFORM pgmq_gateway.lose_patience(SQLSTATE);
            END;
        END IF;
        first := last + 1;
        RETURN NEXT;
    END LOOP;
END
$$;

-- Deletes messages of several queues or, as the `action` says, moves them into their archives: the first queue has
-- `counts[1]` of them, and so on. Returns which were: what became of the others is for a statement of their queue
-- to tell. A message of which it is said at which delivery it is to be (`read_cts`, `read_stamps`, `queue_ids`) is
-- left where it is not.
CREATE FUNCTION pgmq_gateway.end_in_queues(
    action text, queues text[], counts integer[], ids bigint[], read_cts integer[], read_stamps bigint[],
    queue_ids bigint[]
) RETURNS TABLE (place integer, outcome text, ended bigint[]) LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp SET lock_timeout = '5ms' SET enable_seqscan = off SET jit = off AS $$
DECLARE
    plain record := pgmq_gateway.plain_tables(queues, 'q');
    archives record := plain;
    known_ids bigint[] := CASE WHEN queue_ids IS NOT NULL THEN pgmq_gateway.known_queue_ids(queues) END;
    started timestamptz := clock_timestamp();
    first integer := 1;
    last integer;
BEGIN
    PERFORM pgmq_gateway.require_own_session();
    IF action = 'archive' THEN
        archives := pgmq_gateway.plain_tables(queues, 'a');
    END IF;
    FOR n IN 1..cardinality(queues) LOOP
        place := n;
        ended := NULL;
        last := first + counts[n] - 1;
        IF plain.tables[n] IS NULL AND plain.is_there[n]
           OR archives.tables[n] IS NULL AND archives.is_there[n] THEN
            outcome := 'separate';
        ELSIF plain.tables[n] IS NULL OR archives.tables[n] IS NULL
              OR clock_timestamp() - started > interval '100 ms' THEN
            outcome := 'retry';
        ELSE
            BEGIN
                outcome := 'done';
                ended := ids[first:last];
                IF read_cts IS NOT NULL THEN
                    ended := pgmq_gateway.lock_deliveries(
                        plain.tables[n], coalesce(known_ids[n], pgmq_gateway.queue_id(queues[n])), ended,
                        read_cts[first:last], read_stamps[first:last], queue_ids[first:last]);
                END IF;
                IF pgmq_gateway.is_large(queues[n], ARRAY[action], ended) THEN
                    outcome := 'retry';
                    ended := NULL;
                ELSIF action = 'archive' THEN
                    ended := pgmq_gateway.move_to_archive(queues[n], plain.tables[n]::regclass, ended);
                ELSE
                    ended := pgmq_gateway.delete_plainly(plain.tables[n], ended);
                END IF;
            EXCEPTION WHEN OTHERS OR assert_failure THEN
                outcome := 'retry';
                ended := NULL;
                PERFORM pgmq_gateway.lose_patience(SQLSTATE);
            END;
        END IF;
        first := last + 1;
        RETURN NEXT;
    END LOOP;
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
    id bigint;
    deleted bigint[] := '{}';
BEGIN
    FOR id IN EXECUTE format('/* pgmq_gateway */ DELETE FROM %s q WHERE q.msg_id = ANY ($1)
                              RETURNING q.msg_id', q_table) USING ids LOOP
        deleted := deleted || id;
    END LOOP;
    RETURN deleted;
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
CREATE FUNCTION pgmq_gateway.receive_from_queues(
    queues text[], hide_seconds integer[], max_messages integer[], want_due boolean[]
) RETURNS TABLE (
    place integer, msg_id bigint, read_ct integer, enqueued_at timestamptz, last_read_at timestamptz,
    vt timestamptz, message jsonb, headers jsonb, queue_id bigint, outcome text, due_in float8, took float8
) LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp SET lock_timeout = '5ms' SET enable_seqscan = off SET jit = off AS $$
DECLARE
    -- What is stored in more bytes than this can take long to be read out: it may be compressed.
    MOST_BYTES CONSTANT integer := 16384;
    plain record := pgmq_gateway.plain_tables(queues, 'q');
    ids bigint[] := pgmq_gateway.known_queue_ids(queues);
    started timestamptz := clock_timestamp();
    began timestamptz := started;
    ended timestamptz;
    found_count integer;
BEGIN
    PERFORM pgmq_gateway.require_own_session();
    FOR n IN 1..cardinality(queues) LOOP
        due_in := NULL;
        outcome := 'done';
        IF plain.tables[n] IS NULL OR began - started > interval '100 ms' THEN
            outcome := CASE WHEN plain.tables[n] IS NULL AND plain.is_there[n] THEN 'separate' ELSE 'retry' END;
        ELSE
            BEGIN
                RETURN QUERY EXECUTE format(
                    '/* pgmq_gateway */
                     UPDATE %1$s m SET vt = clock_timestamp() + make_interval(secs => $1),
                                       read_ct = m.read_ct + 1 %2$s
                     WHERE m.ctid = ANY (ARRAY(
                         SELECT q.ctid FROM %1$s q WHERE q.vt <= statement_timestamp() ORDER BY q.vt
                         LIMIT $2 FOR UPDATE SKIP LOCKED))
                     RETURNING $4, m.msg_id, m.read_ct, m.enqueued_at, %3$s, m.vt,
                         CASE WHEN pg_column_size(m.message) + coalesce(pg_column_size(%4$s), 0) > $5
                              THEN pgmq_gateway.refuse_large() ELSE m.message END,
                         %4$s, $3, NULL::text, NULL::float8, NULL::float8',
                    plain.tables[n],
                    CASE WHEN plain.has_stamps[n] THEN ', last_read_at = clock_timestamp()' END,
                    CASE WHEN plain.has_stamps[n] THEN 'm.last_read_at' ELSE 'NULL::timestamptz' END,
                    CASE WHEN plain.has_headers[n] THEN 'm.headers' ELSE 'NULL::jsonb' END)
                USING hide_seconds[n], max_messages[n],
                      coalesce(ids[n], pgmq_gateway.queue_id(queues[n])), n, MOST_BYTES;
                GET DIAGNOSTICS found_count = ROW_COUNT;
                IF want_due[n] AND found_count < max_messages[n] THEN
                    due_in := pgmq_gateway.due_in(plain.tables[n]::regclass);
                END IF;
            EXCEPTION WHEN OTHERS OR assert_failure THEN
                outcome := CASE WHEN SQLSTATE = 'PGW24' THEN 'separate' ELSE 'retry' END;
                PERFORM pgmq_gateway.lose_patience(SQLSTATE);
            END;
        END IF;
        ended := clock_timestamp();
        took := extract(epoch FROM ended - began);
        began := ended;
        place := n;
        RETURN NEXT;
    END LOOP;
END
$$;
