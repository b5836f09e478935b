-- Storing messages.

-- Holds whoever else stores messages in a queue back until the end of the transaction: where messages
-- are read in order, those that are committed later must not have the smaller ids.
CREATE FUNCTION pgmq_gateway.lock_send_order(queue text)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM pgmq_gateway.queue_settings s WHERE s.queue_name = queue FOR UPDATE;
    IF NOT FOUND THEN
        PERFORM pgmq_gateway.register_queue(queue);
        PERFORM FROM pgmq_gateway.queue_settings s WHERE s.queue_name = queue FOR UPDATE;
    END IF;
END
$$;

-- The statement that stores messages in a table: those of $1 with the headers of $2, each visible after
-- the seconds of $3 or, where it is set, at the moment of $4; it returns an id for each in order.
CREATE FUNCTION pgmq_gateway.insert_statement(relation regclass, has_headers boolean)
RETURNS text LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN format(
        $query$
        INSERT INTO %s (vt, message %s)
        SELECT pgmq_gateway.moment(new.visible_at, new.delay),
               new.message %s
        FROM (SELECT unnest($1) AS message, unnest($2) AS headers, unnest($3) AS delay,
                     unnest($4) AS visible_at) new
        RETURNING msg_id
        $query$,
        relation,
        CASE WHEN has_headers THEN ', headers' END,
        CASE WHEN has_headers THEN ', new.headers' END);
END
$$;

-- Stores messages that have a moment of visibility each, all or none, and returns their ids in order.
-- `delays` counts seconds from now; `visible_at` wins where it is set. Raises PGW23 if the table did not
-- take every row: a row that is stored returns one id, in the order in which they are stored.
CREATE FUNCTION pgmq_gateway.send(
    queue text, messages jsonb[], headers jsonb[], delays integer[], visible_at timestamptz[],
    in_turn boolean
) RETURNS SETOF bigint LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp SET lock_timeout = '100ms' AS $$
DECLARE
    relation regclass := to_regclass(format('pgmq.%I', pgmq.format_table_name(queue, 'q')));
    has_headers boolean;
    stored integer;
BEGIN
    SELECT EXISTS (SELECT FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid
                   AND a.attname = 'headers' AND NOT a.attisdropped)
    INTO has_headers
    FROM pg_catalog.pg_class c
    WHERE c.oid = relation AND c.relkind IN ('r', 'p') AND NOT c.relispartition;
    IF has_headers IS NULL THEN
        RAISE EXCEPTION '%', queue USING ERRCODE = 'PGW40';
    END IF;
    IF in_turn THEN
        -- Other gateways hold it for as long as a commit takes.
        PERFORM set_config('lock_timeout', '250ms', true);
        PERFORM pgmq_gateway.lock_send_order(queue);
    END IF;
    IF NOT has_headers AND EXISTS (SELECT FROM unnest(headers) h WHERE h IS NOT NULL) THEN
        PERFORM pgmq_gateway.need_headers();
    END IF;
    RETURN QUERY EXECUTE pgmq_gateway.insert_statement(relation, has_headers)
    USING messages, headers, delays, visible_at;
    GET DIAGNOSTICS stored = ROW_COUNT;
    IF stored <> cardinality(messages) THEN
        RAISE EXCEPTION '% of % rows were stored', stored, cardinality(messages)
            USING ERRCODE = 'PGW23';
    END IF;
END
$$;

-- As `send`, for several requests, of which each is stored as a whole or fails alone: the first has
-- `sizes[1]` of the messages, and so on. The messages are text, as one that is no JSON of PostgreSQL's
-- must not spoil the others.
CREATE FUNCTION pgmq_gateway.send_each(
    queue text, messages text[], headers text[], delays integer[], visible_at timestamptz[],
    in_turn boolean, sizes integer[]
) RETURNS TABLE (place integer, ids bigint[], outcome text, code text, constraint_name text)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '5ms' AS $$
DECLARE
    relation regclass := pgmq_gateway.queue_table(queue);
    has_headers boolean := pgmq_gateway.has_column(relation, 'headers');
    statement text;
    behind integer := 0;
    first integer;
    parsed jsonb[];
    parsed_headers jsonb[];
BEGIN
    PERFORM pgmq_gateway.require_privilege(relation, 'INSERT');
    PERFORM pgmq_gateway.require_unlocked(relation);
    IF in_turn THEN
        PERFORM set_config('lock_timeout', '25ms', true);
        PERFORM pgmq_gateway.lock_send_order(queue);
        PERFORM set_config('lock_timeout', '5ms', true);
    END IF;
    statement := format('WITH stored AS (%s) SELECT array_agg(s.msg_id) FROM stored s',
                        pgmq_gateway.insert_statement(relation, has_headers));
    FOR n IN 1..cardinality(sizes) LOOP
        place := n;
        first := behind + 1;
        behind := behind + sizes[n];
        ids := NULL;
        code := NULL;
        constraint_name := NULL;
        BEGIN
            outcome := 'unstorable';
            parsed := messages[first:behind]::jsonb[];
            parsed_headers := headers[first:behind]::jsonb[];
            outcome := 'done';
            IF NOT has_headers AND EXISTS (SELECT FROM unnest(parsed_headers) h WHERE h IS NOT NULL)
            THEN
                RAISE SQLSTATE 'PGW05';
            END IF;
            EXECUTE statement INTO ids
            USING parsed, parsed_headers, delays[first:behind], visible_at[first:behind];
            IF ids IS NULL OR cardinality(ids) <> sizes[n] THEN
                RAISE SQLSTATE 'PGW23';
            END IF;
        EXCEPTION WHEN OTHERS THEN
            GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, constraint_name = CONSTRAINT_NAME;
            IF NOT pgmq_gateway.is_about_a_row(code) THEN
                RAISE;
            END IF;
            ids := NULL;
            IF outcome <> 'unstorable' THEN
                outcome := pgmq_gateway.outcome_of(code);
            END IF;
            IF outcome = 'locked' THEN
                -- The next ones may stand there too.
                PERFORM set_config('lock_timeout', '1ms', true);
            END IF;
        END;
        RETURN NEXT;
    END LOOP;
END
$$;

-- Brings the sequence of a queue's ids up to the ids that are in its tables, which it lags behind after
-- some restores and failovers. Whether there was something to do.
CREATE FUNCTION pgmq_gateway.advance_sequence(queue text)
RETURNS boolean LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp SET lock_timeout = '100ms' AS $$
DECLARE
    relation regclass := pgmq_gateway.queue_table(queue);
    archive regclass := to_regclass(format('pgmq.%I', pgmq.format_table_name(queue, 'a')));
    sequence text := pg_get_serial_sequence(
        format('pgmq.%I', pgmq.format_table_name(queue, 'q')), 'msg_id');
    last bigint;
    highest bigint;
    archived bigint;
BEGIN
    IF sequence IS NULL THEN
        RETURN false;
    END IF;
    PERFORM pgmq_gateway.lock_queue(queue);
    EXECUTE format('SELECT CASE WHEN s.is_called THEN s.last_value ELSE 0 END FROM %s s', sequence)
    INTO last;
    EXECUTE format('SELECT max(q.msg_id) FROM %s q', relation) INTO highest;
    IF pgmq_gateway.is_whole_table(archive) AND has_table_privilege(archive, 'SELECT') THEN
        EXECUTE format('SELECT max(a.msg_id) FROM %s a', archive) INTO archived;
    END IF;
    highest := greatest(highest, archived);
    IF highest IS NULL OR highest <= last THEN
        RETURN false;
    END IF;
    IF has_sequence_privilege(sequence, 'UPDATE') THEN
        PERFORM setval(sequence::regclass, highest);
    ELSE
        -- Who may only take ids takes those that are in use; a million at a time.
        PERFORM nextval(sequence::regclass) FROM generate_series(1, least(highest - last, 1000000));
    END IF;
    RETURN true;
END
$$;
