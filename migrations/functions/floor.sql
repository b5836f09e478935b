-- Where reads of a queue begin. While an old snapshot is held, PostgreSQL cannot clean the dead entries of the
-- index on vt up, and whoever reads from its beginning walks them all. The gateway learns from here where the
-- first one is that is alive, and lets reads begin there (src/engine/floors).

-- The condition by which a read of the table `q` begins at a moment; nothing without one.
CREATE FUNCTION pgmq_gateway.since_condition(since timestamptz)
RETURNS text LANGUAGE plpgsql STABLE AS $$
BEGIN
    -- In a form that no setting of the session reads otherwise.
    RETURN CASE WHEN isfinite(since) THEN
        format('AND q.vt >= timestamptz ''%s''',
               to_char(since AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')) END;
END
$$;

-- The lowest vt of the visible messages of a queue, beginning at `since` (at the first one without it), in
-- microseconds since 1970; null if there is none, 0 if it is before that. Messages that a transaction has locked
-- which is under way are passed over, up to a hundred: `locked` has each one's vt, `locked_by` that transaction.
--
-- What the look does not show is of transactions that are under way. Of those below `xmax` they are `running`.
-- `xid` is one that was assigned before the look and after `looked_at`: so those that are above it began later
-- than that, and it is itself below the `xmax` of the next look. `walk_seconds` is how long the look took.
-- No row for a queue without an index on vt, as those are that are partitioned.
CREATE FUNCTION pgmq_gateway.lowest_visible(queue text, since timestamptz)
RETURNS TABLE (
    lowest bigint, locked bigint[], locked_by bigint[], looked_at bigint, xid bigint, xmax bigint,
    running bigint[], walk_seconds float8
) LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '20ms' AS $$
DECLARE
    q_table regclass := pgmq_gateway.queue_table(queue);
    current pg_snapshot;
    began timestamptz;
    -- As they stand in rows: the lower half.
    running_short bigint[];
    visible refcursor;
    found_vt timestamptz;
    holder bigint;
BEGIN
    PERFORM pgmq_gateway.require_own_session();
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_index i
                   JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
                   WHERE i.indrelid = q_table AND a.attname = 'vt' AND i.indisvalid AND i.indpred IS NULL)
       OR EXISTS (SELECT FROM pg_catalog.pg_partitioned_table p WHERE p.partrelid = q_table) THEN
        RETURN;
    END IF;
    looked_at := pgmq_gateway.microseconds(statement_timestamp());
    xid := pg_current_xact_id()::text::bigint;
    current := pg_current_snapshot();
    xmax := pg_snapshot_xmax(current)::text::bigint;
    running := ARRAY(SELECT x.id::text::bigint FROM pg_snapshot_xip(current) AS x (id));
    running_short := ARRAY(SELECT x.id & 4294967295 FROM unnest(running) AS x (id));
    locked := '{}';
    locked_by := '{}';
    began := clock_timestamp();
    -- Row by row: behind the first one there may be many dead ones, too.
    OPEN visible NO SCROLL FOR EXECUTE format(
        '/* pgmq_gateway */ SELECT q.vt, q.xmax::text::bigint FROM %s q
         WHERE q.vt <= statement_timestamp() %s ORDER BY q.vt LIMIT 101', q_table,
        pgmq_gateway.since_condition(since));
    LOOP
        FETCH visible INTO found_vt, holder;
        EXIT WHEN NOT FOUND;
        IF cardinality(locked) = 100 OR holder <> ALL (running_short) THEN
            lowest := pgmq_gateway.microseconds(found_vt);
            EXIT;
        END IF;
        locked := locked || pgmq_gateway.microseconds(found_vt);
        locked_by := locked_by || running[array_position(running_short, holder)];
    END LOOP;
    CLOSE visible;
    walk_seconds := extract(epoch FROM clock_timestamp() - began);
    RETURN NEXT;
END
$$;

-- A moment in microseconds since 1970, which is as early as it gets.
CREATE FUNCTION pgmq_gateway.microseconds(moment timestamptz)
RETURNS bigint LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN moment <= 'epoch' THEN 0 ELSE (extract(epoch FROM moment) * 1000000)::bigint END
$$;

-- Seconds until the next hidden message of a queue becomes visible, null if there is none, and how long it took
-- to find that out.
CREATE FUNCTION pgmq_gateway.next_due(queue text, OUT due_in float8, OUT walk_seconds float8)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '20ms' AS $$
DECLARE
    q_table regclass := pgmq_gateway.queue_table(queue);
    began timestamptz := clock_timestamp();
BEGIN
    PERFORM pgmq_gateway.require_own_session();
    due_in := pgmq_gateway.due_in(q_table);
    walk_seconds := extract(epoch FROM clock_timestamp() - began);
END
$$;
