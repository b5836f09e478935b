-- Storing messages.

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
