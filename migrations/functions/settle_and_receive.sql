-- Ends of messages and the next ones, for those who finish one and want another.

-- Ends messages, and then leases up to `max_messages`, if that is any, as `receive` does, in one commit. The rows of
-- the former have a `place`. Whatever fails, fails the whole.
--
-- Where all are to be deleted, `plainly`, what needs no more than that is, by `delete_known` or else `end_in_queues`, and
-- only the others are asked for by `settle`, which takes far longer: no id may be there twice then. A row without a place
-- says `all_done` where that was all, in place of a row for each, `separate` where it is not worth a try, and what is to
-- be remembered, as by `known_tables`. The time for locks is that of `delete_known`: the others have their own.
CREATE FUNCTION pgmq_gateway.settle_and_receive(
    queue text, actions text[], ids bigint[], read_cts integer[], read_stamps bigint[], queue_ids bigint[],
    reasons text[], target text, hide_seconds integer, max_messages integer, max_receives integer,
    since timestamptz, plainly boolean DEFAULT false, known_oids oid[] DEFAULT NULL,
    known_versions text[] DEFAULT NULL, known_names text[] DEFAULT NULL, known_shapes integer[] DEFAULT NULL,
    known_ids bigint[] DEFAULT NULL
) RETURNS TABLE (
    msg_id bigint, read_ct integer, enqueued_at timestamptz, last_read_at timestamptz,
    vt timestamptz, message jsonb, headers jsonb, queue_id bigint, dead integer,
    kept integer, kept_code text, place bigint, outcome text, constraint_name text,
    table_oid oid, version text, table_name text, shape integer
) LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '5ms' AS $$
DECLARE
    plain record;
    are_all_done boolean;
    -- The places of those that are asked for by `settle`.
    places integer[];
    -- The table, where it is known to be a plain one, with its shape and its queue.
    plain_table text;
    plain_shape integer := known_shapes[1];
    this_queue bigint := known_ids[1];
BEGIN
    -- Those that end messages plainly ask whose session it is.
    IF plainly AND read_cts IS NULL THEN
        plain_table := pgmq_gateway.delete_known(ids, known_oids[1], known_versions[1], known_names[1]);
    END IF;
    IF plain_table IS NOT NULL THEN
        outcome := 'all_done';
        RETURN NEXT;
        places := '{}';
    ELSIF plainly THEN
        SELECT * INTO STRICT plain FROM pgmq_gateway.end_in_queues(
            'delete', ARRAY[queue], ARRAY[cardinality(ids)], ids, read_cts, read_stamps, queue_ids,
            known_oids, known_versions, known_names, known_shapes, known_ids);
        are_all_done := cardinality(plain.ended) = cardinality(ids);
        IF are_all_done OR plain.outcome = 'separate' OR plain.table_oid IS NOT NULL THEN
            outcome := CASE WHEN are_all_done THEN 'all_done' ELSE plain.outcome END;
            queue_id := plain.queue_id;
            table_oid := plain.table_oid;
            version := plain.version;
            table_name := plain.table_name;
            shape := plain.shape;
            RETURN NEXT;
        END IF;
        IF plain.outcome = 'done' THEN
            plain_table := coalesce(plain.table_name, known_names[1]);
            plain_shape := coalesce(plain.shape, plain_shape);
            this_queue := coalesce(plain.queue_id, this_queue);
        END IF;
        IF are_all_done THEN
            places := '{}';
        ELSE
            places := ARRAY(SELECT i.place FROM unnest(ids) WITH ORDINALITY AS i (id, place)
                            WHERE NOT EXISTS (SELECT FROM unnest(plain.ended) AS e (id) WHERE e.id = i.id)
                            ORDER BY i.place);
            RETURN QUERY
                SELECT NULL::bigint, NULL::integer, NULL::timestamptz, NULL::timestamptz, NULL::timestamptz,
                       NULL::jsonb, NULL::jsonb, NULL::bigint, NULL::integer, NULL::integer, NULL::text,
                       i.place::bigint, 'done'::text, NULL::text, NULL::oid, NULL::text, NULL::text, NULL::integer
                FROM generate_subscripts(ids, 1) AS i (place)
                WHERE i.place <> ALL (places);
        END IF;
    ELSE
        PERFORM pgmq_gateway.require_own_session();
        places := ARRAY(SELECT generate_subscripts(ids, 1));
    END IF;
    IF places <> '{}' THEN
        RETURN QUERY
            SELECT NULL::bigint, NULL::integer, NULL::timestamptz, NULL::timestamptz, NULL::timestamptz,
                   NULL::jsonb, NULL::jsonb, NULL::bigint, NULL::integer, NULL::integer, NULL::text,
                   places[s.place]::bigint, s.outcome, s.constraint_name,
                   NULL::oid, NULL::text, NULL::text, NULL::integer
            FROM pgmq_gateway.settle_ends(
                queue, places, actions, ids, read_cts, read_stamps, queue_ids, reasons, target) s;
    END IF;
    IF max_messages > 0 AND plain_table IS NOT NULL AND max_receives IS NULL AND since IS NULL THEN
        -- Nothing can be in the way there but what fails the whole in any case.
        RETURN QUERY EXECUTE
            pgmq_gateway.lease_statement(plain_table, plain_shape)
            || ', $5::bigint, NULL::integer, NULL::integer, NULL::text, NULL::bigint, NULL::text, NULL::text,
                NULL::oid, NULL::text, NULL::text, NULL::integer'
        USING clock_timestamp() + make_interval(secs => hide_seconds), clock_timestamp(), statement_timestamp(),
              max_messages, coalesce(this_queue, pgmq_gateway.queue_id(queue));
    ELSIF max_messages > 0 THEN
        RETURN QUERY
            SELECT r.msg_id, r.read_ct, r.enqueued_at, r.last_read_at, r.vt, r.message, r.headers, r.queue_id,
                   r.dead, r.kept, r.kept_code, NULL::bigint, NULL::text, NULL::text,
                   NULL::oid, NULL::text, NULL::text, NULL::integer
            FROM pgmq_gateway.receive(
                queue, hide_seconds, max_messages, filter => NULL, by_id => false, want_due => false,
                max_receives => max_receives, dead_letter_queue => target, one_by_one => false, since => since) r;
    END IF;
END
$$;

-- Deletes messages where all of them are there, and returns the name of their table; where any is not, or something is in
-- the way, or the table is not the plain one any more that it was (see `known_tables`), it deletes none and returns null.
CREATE FUNCTION pgmq_gateway.delete_known(ids bigint[], known_oid oid, known_version text, known_name text)
RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    deleted integer;
BEGIN
    IF pgmq_gateway.session_has_changed() THEN
        PERFORM pgmq_gateway.require_own_session();
    END IF;
    IF (SELECT c.xmin::text FROM pg_catalog.pg_class c WHERE c.oid = known_oid) = known_version THEN
        BEGIN
            EXECUTE '/* pgmq_gateway */ DELETE FROM ' || known_name || ' q WHERE q.msg_id = ANY ($1)' USING ids;
            GET DIAGNOSTICS deleted = ROW_COUNT;
            IF deleted < cardinality(ids) THEN
                RAISE SQLSTATE 'PGW24';
            END IF;
            RETURN known_name;
        EXCEPTION WHEN OTHERS OR assert_failure THEN
            RETURN NULL;
        END;
    END IF;
    RETURN NULL;
END
$$;

-- Settles those of several entries that have these places; none of them is given back.
CREATE FUNCTION pgmq_gateway.settle_ends(
    queue text, places integer[], actions text[], ids bigint[], read_cts integer[], read_stamps bigint[],
    queue_ids bigint[], reasons text[], target text
) RETURNS TABLE (place bigint, outcome text, constraint_name text) LANGUAGE plpgsql AS $$
DECLARE
    chosen record;
BEGIN
    SELECT array_agg(actions[p.n] ORDER BY p.i) AS actions, array_agg(ids[p.n] ORDER BY p.i) AS ids,
           array_agg(read_cts[p.n] ORDER BY p.i) AS read_cts,
           array_agg(read_stamps[p.n] ORDER BY p.i) AS read_stamps,
           array_agg(queue_ids[p.n] ORDER BY p.i) AS queue_ids,
           array_agg(reasons[p.n] ORDER BY p.i) AS reasons
    INTO chosen FROM unnest(places) WITH ORDINALITY AS p (n, i);
    RETURN QUERY
        SELECT s.place, s.outcome, s.constraint_name
        FROM pgmq_gateway.settle(
            queue, chosen.actions, chosen.ids, chosen.read_cts, chosen.read_stamps, chosen.queue_ids,
            delays => array_fill(NULL::integer, ARRAY[cardinality(places)]),
            visible_at => array_fill(NULL::timestamptz, ARRAY[cardinality(places)]), uncounted => NULL,
            reasons => CASE WHEN reasons IS NOT NULL THEN chosen.reasons END, target => target,
            backoff => NULL, one_by_one => false) s;
END
$$;
