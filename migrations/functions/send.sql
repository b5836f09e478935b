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
    -- Ids that this session took in advance (CACHE) are smaller than those that others have stored since.
    DISCARD SEQUENCES;
END
$$;

-- The headers that a sender gives a message: how often it was delivered before it became a dead letter is
-- for the gateway alone to say, as it is believed.
CREATE FUNCTION pgmq_gateway.senders_headers(headers jsonb)
RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN headers -> 'x-dead-letter-read-ct' IS NULL THEN headers
           ELSE headers - 'x-dead-letter-read-ct' END
$$;

-- The statement that stores messages in a table: those of $1 with the headers of $2, each visible after
-- the seconds of $3 or, where it is set, at the moment of $4, as `moment` has it: it is planned each time, and to look
-- into a function is dear then. It returns an id for each in order.
CREATE FUNCTION pgmq_gateway.insert_statement(relation regclass, has_headers boolean)
RETURNS text LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN format(
        $query$/* pgmq_gateway */
        INSERT INTO %s (vt, message %s)
        SELECT CASE WHEN new.visible_at IS NULL THEN clock_timestamp() + make_interval(secs => new.delay)
                    ELSE greatest(new.visible_at, clock_timestamp()) END,
               new.message %s
        FROM (SELECT unnest($1) AS message, unnest($2) AS headers, unnest($3) AS delay,
                     unnest($4) AS visible_at) new
        RETURNING msg_id
        $query$,
        relation,
        CASE WHEN has_headers THEN ', headers' END,
        CASE WHEN has_headers THEN ', pgmq_gateway.senders_headers(new.headers)' END);
END
$$;

-- Stores messages that have a moment of visibility each, all or none, and returns their ids in order.
-- `delays` counts seconds from now; `visible_at` wins where it is set. Raises PGW23 if the table did not
-- take every row: a row that is stored returns one id, in the order in which they are stored. The id of one
-- that was not stored, as it was sent before (sqs.sql), is marked as `of_duplicate` does.
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
    IF pgmq_gateway.session_has_changed() THEN
        PERFORM pgmq_gateway.require_own_session();
    END IF;
    SELECT EXISTS (SELECT FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid
                   AND a.attname = 'headers' AND NOT a.attisdropped)
    INTO has_headers
    FROM pg_catalog.pg_class c
    WHERE c.oid = relation AND c.relkind IN ('r', 'p') AND NOT c.relispartition;
    IF has_headers IS NULL THEN
        PERFORM pgmq_gateway.refuse_queue(queue);
    END IF;
    IF in_turn THEN
        -- Other gateways hold it for as long as a commit takes.
        PERFORM set_config('lock_timeout', '250ms', true);
        PERFORM pgmq_gateway.lock_send_order(queue);
    END IF;
    IF NOT has_headers AND EXISTS (SELECT FROM unnest(headers) h WHERE h IS NOT NULL) THEN
        PERFORM pgmq_gateway.need_headers();
    END IF;
    -- The queue may be read in groups since a moment ago.
    IF headers IS NOT NULL AND EXISTS (SELECT FROM unnest(headers) h WHERE h ? 'x-deduplication-id')
       AND (in_turn OR pgmq_gateway.has_fifo_index(relation)) THEN
        IF NOT in_turn THEN
            PERFORM set_config('lock_timeout', '250ms', true);
            PERFORM pgmq_gateway.lock_send_order(queue);
        END IF;
        RETURN QUERY SELECT s.id FROM pgmq_gateway.send_deduplicated(
            queue, pgmq_gateway.insert_statement(relation, has_headers), messages, headers, delays,
            visible_at) AS s (id);
        PERFORM pgmq_gateway.check_at_once();
        RETURN;
    END IF;
    IF headers IS NULL AND cardinality(messages) = 1 THEN
        -- What is planned each time is kept simple: for most of these, planning takes longer than all the rest.
        RETURN QUERY EXECUTE format(
            '/* pgmq_gateway */ INSERT INTO %s (vt, message) VALUES ($1, $2) RETURNING msg_id', relation)
        USING pgmq_gateway.moment(visible_at[1], delays[1]), messages[1];
    ELSIF headers IS NULL AND visible_at IS NULL AND delays[1] = ALL (delays) THEN
        RETURN QUERY EXECUTE format(
            '/* pgmq_gateway */ INSERT INTO %s (vt, message) SELECT $1, unnest($2) RETURNING msg_id', relation)
        USING pgmq_gateway.moment(NULL, delays[1]), messages;
    ELSE
        RETURN QUERY EXECUTE pgmq_gateway.insert_statement(relation, has_headers AND headers IS NOT NULL)
        USING messages, headers, delays, visible_at;
    END IF;
    GET DIAGNOSTICS stored = ROW_COUNT;
    IF stored <> cardinality(messages) THEN
        RAISE EXCEPTION '% of % rows were stored', stored, cardinality(messages)
            USING ERRCODE = 'PGW23';
    END IF;
    -- check_at_once, without a call: a trigger may have changed the role, which then may call nothing here.
    EXECUTE '/* pgmq_gateway */ SET CONSTRAINTS ALL IMMEDIATE';
END
$$;

-- As `send`, for several requests, of which each is stored as a whole or fails alone: the first has
-- `sizes[1]` of the messages, and so on. The messages are bytes of UTF-8, as one that is no JSON of
-- PostgreSQL's, or has what the database's encoding has no place for, must not spoil the others. A request with
-- a key is done once, as by `send_once`; `key_failed` says that its key could not be claimed, `unnoted` that a
-- deduplication id could not be written down.
CREATE FUNCTION pgmq_gateway.send_each(
    queue text, messages bytea[], headers bytea[], delays integer[], visible_at timestamptz[],
    in_turn boolean, sizes integer[], scopes text[], keys text[], fingerprints bytea[],
    lifetimes integer[]
) RETURNS TABLE (place integer, ids bigint[], outcome text, code text, constraint_name text)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '5ms' AS $$
DECLARE
    relation regclass := pgmq_gateway.queue_table(queue);
    has_headers boolean := pgmq_gateway.has_column(relation, 'headers');
    statement text;
    plain_statement text;
    behind integer := 0;
    context text;
    id bigint;
    parsed jsonb;
    parsed_headers jsonb;
    this_queue bigint;
    is_fifo boolean := has_headers AND pgmq_gateway.has_fifo_index(relation);
    is_deduplicated boolean;
    missing text;
    key_queue_id bigint;
    me name := current_user;
    my_role text := current_setting('role');
    my_session name := session_user;
BEGIN
    PERFORM pgmq_gateway.require_own_session();
    key_queue_id := CASE WHEN keys IS NOT NULL THEN pgmq_gateway.queue_id(queue) END;
    PERFORM pgmq_gateway.require_right_to_send(relation);
    PERFORM pgmq_gateway.require_unlocked(relation);
    PERFORM pgmq_gateway.check_at_once();
    IF in_turn OR is_fifo THEN
        PERFORM set_config('lock_timeout', '25ms', true);
        PERFORM pgmq_gateway.lock_send_order(queue);
        PERFORM set_config('lock_timeout', '5ms', true);
    END IF;
    statement := pgmq_gateway.insert_statement(relation, has_headers);
    plain_statement := pgmq_gateway.insert_statement(relation, false);
    FOR n IN 1..cardinality(sizes) LOOP
        place := n;
        ids := '{}';
        code := NULL;
        constraint_name := NULL;
        outcome := 'done';
        BEGIN
            IF keys[n] IS NOT NULL THEN
                outcome := 'key_failed';
                IF cardinality(pgmq_gateway.claim_idempotency_keys(
                       queue, scopes[n:n], keys[n:n], fingerprints[n:n], lifetimes[n:n], key_queue_id)) > 0
                THEN
                    outcome := 'done';
                ELSE
                    SELECT e.outcome, e.ids INTO outcome, ids FROM pgmq_gateway.earlier_answer(
                        scopes[n], keys[n], fingerprints[n]) e;
                END IF;
            END IF;
            FOR i IN behind + 1..behind + CASE outcome WHEN 'done' THEN sizes[n] ELSE 0 END LOOP
                outcome := 'unstorable';
                parsed := convert_from(messages[i], 'UTF8')::jsonb;
                parsed_headers := convert_from(headers[i], 'UTF8')::jsonb;
                outcome := 'done';
                IF parsed_headers IS NOT NULL AND NOT has_headers THEN
                    RAISE EXCEPTION 'there is no column headers' USING ERRCODE =
                        CASE WHEN pgmq_gateway.pgmq_has('headers') THEN 'undefined_column' ELSE 'PGW05' END;
                END IF;
                is_deduplicated := (in_turn OR is_fifo)
                    AND pgmq_gateway.deduplication_key(parsed_headers) IS NOT NULL;
                IF is_deduplicated THEN
                    this_queue := coalesce(this_queue, pgmq_gateway.queue_id(queue));
                    outcome := 'unnoted';
                    id := pgmq_gateway.duplicate_of(this_queue, parsed_headers);
                    outcome := 'done';
                    IF id IS NOT NULL THEN
                        ids := ids || pgmq_gateway.of_duplicate(id);
                        CONTINUE;
                    END IF;
                END IF;
                EXECUTE CASE WHEN parsed_headers IS NULL THEN plain_statement ELSE statement END
                INTO id USING ARRAY[parsed], ARRAY[parsed_headers], ARRAY[delays[i]], ARRAY[visible_at[i]];
                -- As in move_rows.
                IF current_user <> me THEN
                    PERFORM CASE WHEN session_user <> my_session
                                 THEN set_config('session_authorization', my_session, true) END,
                            set_config('role', my_role, true);
                END IF;
                IF id IS NULL THEN
                    RAISE SQLSTATE 'PGW23';
                END IF;
                IF is_deduplicated THEN
                    outcome := 'unnoted';
                    PERFORM pgmq_gateway.note_deduplication(
                        this_queue, ARRAY[pgmq_gateway.deduplication_key(parsed_headers)], ARRAY[id],
                        ARRAY[parsed_headers ->> 'x-message-id']);
                    outcome := 'done';
                END IF;
                ids := ids || id;
            END LOOP;
            -- What a trigger has done to the transaction is undone with the row; on its own it concerns no other.
            IF current_setting('transaction_read_only') = 'on' THEN
                RAISE lock_not_available;
            END IF;
            IF outcome = 'done' THEN
                PERFORM pgmq_gateway.check_at_once();
            END IF;
            IF keys[n] IS NOT NULL AND outcome = 'done' THEN
                outcome := 'key_failed';
                PERFORM pgmq_gateway.note_stored(
                    scopes[n:n], keys[n:n], array_fill(1, ARRAY[sizes[n]]), ids);
                outcome := 'done';
            END IF;
        EXCEPTION WHEN OTHERS OR assert_failure OR query_canceled THEN
            GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, context = PG_EXCEPTION_CONTEXT,
                                    constraint_name = CONSTRAINT_NAME;
            ids := NULL;
            IF outcome IN ('key_failed', 'unnoted') THEN
                outcome := CASE WHEN code = '55P03' OR left(code, 2) = '40' THEN 'locked'
                                -- Of the server: no other request fares better.
                                WHEN left(code, 2) IN ('08', '25', '53', '57', '58') THEN NULL
                                ELSE outcome END;
            ELSIF outcome <> 'unstorable' THEN
                code := pgmq_gateway.code_with_rules(code, relation);
                outcome := pgmq_gateway.store_outcome(relation, code, context);
                missing := pgmq_gateway.missing_part(relation, code, context, constraint_name);
                IF missing IS NOT NULL THEN
                    outcome := 'differs';
                    constraint_name := missing;
                ELSIF outcome IS NULL AND pgmq_gateway.is_of_shape(code) THEN
                    -- Others may not bring what there is no place for.
                    outcome := 'differs';
                    constraint_name := pgmq_gateway.differing_column(queue);
                END IF;
            END IF;
            IF outcome IS NULL THEN
                RAISE;
            END IF;
            IF outcome = 'locked' THEN
                -- The next ones may stand there too.
                PERFORM set_config('lock_timeout', '1ms', true);
            END IF;
        END;
        behind := behind + sizes[n];
        RETURN NEXT;
    END LOOP;
END
$$;
