-- When messages that were delivered are visible again, and whether that delivery counts.

-- What tells one delivery of a message `q` from another with the same number, which there is once a delivery
-- was taken back: 32 bits of the time of it. -1 where the last one was taken back, null where that is not
-- known.
CREATE FUNCTION pgmq_gateway.read_stamp_of(relation regclass)
RETURNS text LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN CASE WHEN pgmq_gateway.has_column(relation, 'last_read_at')
        THEN pgmq_gateway.read_stamp_expression() ELSE 'NULL::bigint' END;
END
$$;

-- The same of a table that has the time.
CREATE FUNCTION pgmq_gateway.read_stamp_expression()
RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    RETURN 'CASE WHEN q.last_read_at IS NULL THEN -1
            WHEN q.last_read_at BETWEEN ''0001-01-01 00:00:00+00'' AND ''9999-12-31 00:00:00+00''
            THEN (extract(epoch FROM q.last_read_at) * 1000000)::bigint & 4294967295 END';
END
$$;

-- What says besides the id which of several messages `q` of it an entry `w` means that speaks of a delivery.
CREATE FUNCTION pgmq_gateway.is_delivery(relation regclass)
RETURNS text LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN format('AND coalesce(q.read_ct = w.read_ct, true) AND coalesce(%s = w.stamp, true)',
                  pgmq_gateway.read_stamp_of(relation));
END
$$;

-- What is set besides to take back the last delivery of a message `q` where `condition` holds. That is done
-- once: without a time it is not there any more. One that was before a message came here stays.
CREATE FUNCTION pgmq_gateway.uncount(relation regclass, condition text)
RETURNS text LANGUAGE plpgsql STABLE AS $$
DECLARE
    is_counted text := format(
        '%s AND q.last_read_at IS NOT NULL AND pgmq_gateway.deliveries(q.read_ct, %s) > 0', condition,
        CASE WHEN pgmq_gateway.has_column(relation, 'headers') THEN 'q.headers' ELSE 'NULL' END);
BEGIN
    RETURN format(', read_ct = q.read_ct - CASE WHEN %1$s THEN 1 ELSE 0 END,
                   last_read_at = CASE WHEN %1$s THEN NULL ELSE q.last_read_at END', is_counted);
END
$$;

-- Seconds that a message waits that was delivered so many times: `backoff` is the least, the most, and the
-- factor between two deliveries. Give or take a fifth, so that what failed together does not come back
-- together; never more than the most. 0 without one.
CREATE FUNCTION pgmq_gateway.backoff_seconds(read_ct integer, backoff float8[])
RETURNS float8 LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    least_wait float8 := backoff[1];
    most_wait float8 := backoff[2];
    tries integer := greatest(coalesce(read_ct, 1) - 1, 0);
    base float8;
BEGIN
    IF backoff IS NULL THEN
        RETURN 0;
    END IF;
    -- By its logarithm, as the power itself may be no number.
    base := CASE WHEN ln(least_wait) + tries * ln(backoff[3]) >= ln(most_wait) THEN most_wait
                 ELSE least_wait * backoff[3] ^ tries END;
    RETURN base * 0.8 + random() * (least(base * 1.2, most_wait) - base * 0.8);
END
$$;

-- As `moment` or, with neither, after what the back-off says.
CREATE FUNCTION pgmq_gateway.hidden_until(
    visible_at timestamptz, delay integer, read_ct integer, backoff float8[]
) RETURNS timestamptz LANGUAGE sql VOLATILE AS $$
    SELECT CASE WHEN visible_at IS NULL AND delay IS NULL
        THEN clock_timestamp() + make_interval(secs => pgmq_gateway.backoff_seconds(read_ct, backoff))
        ELSE pgmq_gateway.moment(visible_at, delay) END
$$;

-- What an update returns that is to hide a message `q` until `moment`: its id. Where a trigger has left the time as it
-- was, it fails as one does that refuses it: the statement still sees the row of before. A trigger may choose another
-- time, or round it, and what is to be visible may have been so.
CREATE FUNCTION pgmq_gateway.id_if_hidden(relation regclass, moment text)
RETURNS text LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN format($expression$
        CASE WHEN (q.vt BETWEEN %2$s - interval '1 second' AND %2$s + interval '1 second') IS NOT TRUE
              AND greatest(q.vt, %2$s) > clock_timestamp()
              AND isfinite(q.vt) AND EXISTS (SELECT FROM %1$s o WHERE o.msg_id = q.msg_id AND o.vt = q.vt)
        THEN pgmq_gateway.refuse_unhidden() ELSE q.msg_id::bigint END$expression$, relation, moment);
END
$$;

-- Fails as a trigger does that keeps a message from being hidden.
CREATE FUNCTION pgmq_gateway.refuse_unhidden()
RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'a trigger keeps the time of a message as it was';
END
$$;

-- Hides those of the messages that are `ready` for that, and returns their ids. Raises PGW23 if a trigger gives one
-- another id.
CREATE FUNCTION pgmq_gateway.hide_rows(
    q_table regclass, actions text[], ids bigint[], moments timestamptz[], uncounted boolean[], outcomes text[]
) RETURNS SETOF bigint LANGUAGE plpgsql AS $$
DECLARE
    me name := current_user;
    my_role text := current_setting('role');
    my_session name := session_user;
BEGIN
    RETURN QUERY EXECUTE format(
        $query$/* pgmq_gateway */
        UPDATE %s q SET vt = wish.visible_at %s
        FROM (
            SELECT w.msg_id, (array_agg(w.visible_at ORDER BY w.place DESC))[1] AS visible_at,
                   bool_or(w.uncounted) AS uncounted
            FROM unnest($1, $2, $3, $4, $5) WITH ORDINALITY
                 AS w (action, msg_id, visible_at, uncounted, outcome, place)
            WHERE w.action = 'hide' AND w.outcome = 'ready' GROUP BY w.msg_id
        ) wish
        WHERE q.msg_id = wish.msg_id
        RETURNING CASE WHEN q.msg_id = wish.msg_id THEN %s ELSE pgmq_gateway.refuse_other_id() END
        $query$, q_table,
        CASE WHEN true = ANY (uncounted) THEN pgmq_gateway.uncount(q_table, 'wish.uncounted') END,
        pgmq_gateway.id_if_hidden(q_table, 'wish.visible_at')
    ) USING actions, ids, moments, uncounted, outcomes;
    -- As in move_rows.
    IF current_user <> me THEN
        PERFORM CASE WHEN session_user <> my_session
                     THEN set_config('session_authorization', my_session, true) END,
                set_config('role', my_role, true);
    END IF;
END
$$;

-- Fails as a row does that its table does not take as it is to be.
CREATE FUNCTION pgmq_gateway.refuse_other_id()
RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN
    RAISE SQLSTATE 'PGW23';
END
$$;

-- Fails as a message does that cannot be written out.
CREATE FUNCTION pgmq_gateway.refuse_unreadable()
RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    RAISE SQLSTATE 'PGW54';
END
$$;

-- Hides messages, and shows those that are to be `shown` as they are now. One that cannot be written out fails
-- the whole or, where they are hidden `one_by_one`, is `unreadable` and left as it was.
CREATE FUNCTION pgmq_gateway.set_visibility(
    queue text, ids bigint[], read_cts integer[], read_stamps bigint[], queue_ids bigint[],
    delays integer[], visible_at timestamptz[], shown boolean[], one_by_one boolean
) RETURNS TABLE (
    place bigint, outcome text, constraint_name text, msg_id bigint, read_ct integer,
    enqueued_at timestamptz, last_read_at timestamptz, vt timestamptz, message jsonb,
    headers jsonb, queue_id bigint
) LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms' AS $$
DECLARE
    q_table regclass := pgmq_gateway.queue_table(queue);
    readable bigint[] := ids;
    this_queue bigint;
    repeats_ids boolean := false;
    outcomes text[];
    constraints text[];
BEGIN
    PERFORM pgmq_gateway.require_own_session();
    IF one_by_one THEN
        PERFORM set_config('lock_timeout', '5ms', true);
        PERFORM pgmq_gateway.require_unlocked(q_table);
        readable := ARRAY(SELECT CASE WHEN NOT w.shown OR pgmq_gateway.is_readable(q_table, w.id)
                                      THEN w.id END
                          FROM unnest(ids, shown) WITH ORDINALITY AS w (id, shown, place) ORDER BY w.place);
    END IF;
    -- It is for receipts alone.
    IF array_remove(queue_ids, NULL) <> '{}' THEN
        this_queue := pgmq_gateway.queue_id(queue);
        repeats_ids := true = ANY (shown) AND pgmq_gateway.repeats_ids(q_table);
    END IF;
    SELECT array_agg(s.outcome ORDER BY s.place), array_agg(s.constraint_name ORDER BY s.place)
    INTO outcomes, constraints
    FROM pgmq_gateway.settle(queue, array_fill('hide'::text, ARRAY[cardinality(ids)]), readable, read_cts,
                             read_stamps, queue_ids, delays, visible_at, NULL, NULL, NULL, NULL,
                             one_by_one) s;
    RETURN QUERY EXECUTE format(
        '/* pgmq_gateway */ SELECT DISTINCT ON (w.place) w.place,
                CASE WHEN w.id IS NULL THEN ''unreadable''
                     -- A trigger has given it another id, or taken it away.
                     WHEN w.outcome = ''done'' AND w.shown AND m.msg_id IS NULL THEN ''missing''
                     WHEN m.msg_id IS NOT NULL AND NOT ((m.read_ct, m.enqueued_at) IS NOT NULL)
                     THEN pgmq_gateway.refuse_unreadable()
                     ELSE w.outcome END,
                w.constraint_name, %s, $3
         FROM unnest($1, $2, $4, $5, $6, $7)
              WITH ORDINALITY AS w (outcome, id, constraint_name, shown, read_ct, stamp, place)
         LEFT JOIN %s ORDER BY w.place, m.vt DESC', pgmq_gateway.columns(q_table),
         -- As in `settle`.
         format(CASE WHEN one_by_one
                     THEN 'LATERAL (SELECT %2$s FROM %1$s m
                                    WHERE m.msg_id = w.id AND w.outcome = ''done'' AND w.shown %3$s
                                    ORDER BY m.vt DESC LIMIT 1) m ON true'
                     ELSE '%1$s m ON m.msg_id = w.id AND w.outcome = ''done'' AND w.shown %3$s' END,
                q_table, pgmq_gateway.columns(q_table),
                CASE WHEN repeats_ids THEN replace(pgmq_gateway.is_delivery(q_table), 'q.', 'm.') END)
    ) USING outcomes, readable, coalesce(this_queue, 0), constraints, shown, read_cts, read_stamps;
    PERFORM pgmq_gateway.answer_in_utf8();
END
$$;
