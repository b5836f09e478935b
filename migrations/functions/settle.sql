-- What becomes of delivered messages.

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
