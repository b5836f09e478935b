-- Messages that cannot be read: telling them, and taking them away.

-- How many bytes the numbers of a JSON value take once they are written out in full, from above
-- and without writing them out: numbers below 10^1000 are not looked at, larger ones count as
-- the next power of ten of digits.
CREATE FUNCTION pgmq_gateway.expanded_size(document jsonb)
RETURNS bigint LANGUAGE sql IMMUTABLE STRICT AS $$
    SELECT coalesce(sum(CASE
        WHEN abs(number.n) >= ('1e100000')::numeric THEN 131072
        WHEN abs(number.n) >= ('1e10000')::numeric THEN 100000
        WHEN abs(number.n) >= ('1e1000')::numeric THEN 10000
        ELSE 0
    END + scale(number.n)), 0)::bigint
    FROM (
        SELECT leaf::numeric AS n
        FROM jsonb_path_query(document, 'strict $.** ? (@.type() == "number")') AS leaf
    ) AS number
$$;

-- Whether a message can be written out, with what every one has: PostgreSQL makes no text of 1 GiB or more.
CREATE FUNCTION pgmq_gateway.is_readable(q_table regclass, id bigint)
RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    size bigint;
    context text;
BEGIN
    EXECUTE format(
        -- In a database in SQL_ASCII, what is no UTF-8 fails here as it would on its way to the client.
        '/* pgmq_gateway */ SELECT CASE WHEN (m.read_ct, m.enqueued_at) IS NOT NULL THEN
                octet_length(convert_to(m.message::text, ''UTF8''))::bigint + coalesce(octet_length(%s), 0)
                ELSE 1000000000 END FROM %s m WHERE m.msg_id = $1',
        CASE WHEN pgmq_gateway.has_column(q_table, 'headers')
             THEN 'convert_to(m.headers::text, ''UTF8'')' ELSE 'NULL' END,
        q_table
    ) INTO size USING id;
    RETURN coalesce(size, 0) < 1000000000;
EXCEPTION WHEN OTHERS OR assert_failure OR query_canceled THEN
    GET STACKED DIAGNOSTICS context = PG_EXCEPTION_CONTEXT;
    IF pgmq_gateway.is_unreadable(CASE SQLSTATE WHEN '53200' THEN '54000' ELSE SQLSTATE END, context) THEN
        RETURN false;
    ELSIF pgmq_gateway.row_outcome(SQLSTATE, context) IS NULL THEN
        RAISE;
    END IF;
    -- A policy fails at it, and will again where the message is looked at.
    RETURN true;
END
$$;

-- Takes messages that cannot be delivered out of the way: into the archive or, where that does not take
-- them, to the end of all days. Returns those of `ids` that were, and which of the two.
CREATE FUNCTION pgmq_gateway.quarantine_these(queue text, ids bigint[], patience text DEFAULT '50ms')
RETURNS TABLE (id bigint, is_archived boolean) LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms' AS $$
DECLARE
    q_table regclass := pgmq_gateway.queue_table(queue);
    outcome text;
BEGIN
    PERFORM pgmq_gateway.require_own_session();
    PERFORM set_config('lock_timeout', patience, true);
    FOREACH id IN ARRAY ids LOOP
        outcome := (pgmq_gateway.settle_alone(queue, q_table, 'archive', id, NULL, NULL)).outcome;
        is_archived := outcome = 'done';
        IF outcome NOT IN ('done', 'missing', 'locked') THEN
            outcome := (pgmq_gateway.settle_alone(queue, q_table, 'hide', id, NULL, 'infinity')).outcome;
        END IF;
        IF outcome = 'done' THEN
            RETURN NEXT;
        END IF;
    END LOOP;
END
$$;

-- Takes messages out of the way that PostgreSQL cannot send, as `quarantine_these`. Looks at the
-- `max_messages` that would be delivered next, in either order: at the size of their numbers or, without
-- `max_expanded`, at what happens when they are written out.
CREATE FUNCTION pgmq_gateway.quarantine(
    queue text, max_messages integer, max_expanded bigint, filter jsonb
) RETURNS TABLE (id bigint, is_archived boolean) LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms' AS $$
DECLARE
    q_table regclass := pgmq_gateway.queue_table(queue);
    headers text := CASE WHEN pgmq_gateway.has_column(q_table, 'headers')
                         THEN 'm.headers' ELSE 'NULL' END;
    condition text := '$2 IS NULL AND NOT pgmq_gateway.is_readable($3, m.msg_id)';
    unreadable bigint[];
BEGIN
    PERFORM pgmq_gateway.require_own_session();
    IF max_expanded IS NOT NULL THEN
        condition := format('coalesce(pgmq_gateway.expanded_size(m.message), 0)
                             + coalesce(pgmq_gateway.expanded_size(%s), 0) > $2', headers);
    END IF;
    EXECUTE format(
        'SELECT array_agg(m.msg_id) FROM %1$s m WHERE m.msg_id IN (
            (SELECT q.msg_id FROM %1$s q WHERE q.vt <= statement_timestamp() %3$s
             ORDER BY q.vt LIMIT $1)
            UNION
            (SELECT q.msg_id FROM %1$s q WHERE q.vt <= statement_timestamp() %3$s
             ORDER BY q.msg_id LIMIT $1))
         AND %2$s', q_table, condition, CASE WHEN filter IS NOT NULL THEN 'AND q.message @> $4' END
    ) INTO unreadable USING max_messages, max_expanded, q_table, filter;
    -- Another read may be at them, and in vain as well: who waits comes before the next one.
    RETURN QUERY SELECT * FROM pgmq_gateway.quarantine_these(queue, coalesce(unreadable, '{}'), '5s');
END
$$;
