-- One statement for several queues, so that they share its round trip and its commit. Each queue's part is a
-- subtransaction, and what it comes to is said for it alone:
--
-- `done`      as the row says;
-- `retry`     nothing was done: its queue has to be served by a statement of its own, which tells why;
-- `separate`  the same, and so it will be for a while: the table is no plain one, so that it may take long, or it
--             may take some of the rows and refuse others.
--
-- A queue that is locked delays the others by a few milliseconds at most, and what comes after a tenth of a second
-- is left to statements of its own.

-- The tables of queues, in order: null where there is none, and where it is none that stores what it is given and
-- nothing else. `is_there` tells these two apart. A trigger, a policy, a rule, a check, a computed column or an
-- index on an expression can take as long as it likes.
CREATE FUNCTION pgmq_gateway.plain_tables(queues text[], OUT tables text[], OUT is_there boolean[])
LANGUAGE plpgsql STABLE AS $$
BEGIN
    SELECT array_agg(CASE WHEN
               c.relkind = 'r' AND c.relchecks = 0
               AND NOT (c.relhastriggers OR c.relrowsecurity OR c.relhasrules OR c.relhassubclass
                        OR c.relispartition)
               AND NOT EXISTS (SELECT FROM pg_catalog.pg_index i WHERE i.indrelid = c.oid
                               AND (i.indexprs IS NOT NULL OR i.indpred IS NOT NULL))
               -- PGMQ's own columns are not computed, and there are eight of them at most.
               AND (c.relnatts <= 8
                    OR NOT EXISTS (SELECT FROM pg_catalog.pg_attribute a
                                   WHERE a.attrelid = c.oid AND a.attgenerated <> ''))
               THEN format('pgmq.%I', c.relname) END ORDER BY q.place),
           array_agg(c.oid IS NOT NULL ORDER BY q.place)
    INTO tables, is_there
    FROM (
        SELECT u.place, to_regclass(format('pgmq.%I', pgmq.format_table_name(u.queue, 'q'))) AS relation
        FROM unnest(queues) WITH ORDINALITY AS u (queue, place) OFFSET 0
    ) q LEFT JOIN pg_catalog.pg_class c ON c.oid = q.relation;
END
$$;

-- Stores messages in several queues: the first has `counts[1]` of them, and so on; those of a queue are stored all
-- or none, and their ids are in order. The messages and headers are bytes of UTF-8: one that is no JSON of
-- PostgreSQL's is a matter of its queue alone. Otherwise as `send`.
CREATE FUNCTION pgmq_gateway.send_to_queues(
    queues text[], counts integer[], messages bytea[], headers bytea[], delays integer[],
    visible_at timestamptz[]
) RETURNS TABLE (place integer, outcome text, ids bigint[]) LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp SET lock_timeout = '5ms' AS $$
DECLARE
    plain record;
    parsed record;
    started timestamptz := clock_timestamp();
    first integer := 1;
    last integer;
    id bigint;
    code text;
BEGIN
    plain := pgmq_gateway.plain_tables(queues);
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
                    SELECT array_agg(pgmq_gateway.moment(new.visible_at, new.delay)) AS moments,
                           array_agg(convert_from(new.message, 'UTF8')::jsonb) AS messages,
                           array_agg(pgmq_gateway.senders_headers(convert_from(new.headers, 'UTF8')::jsonb))
                               AS headers
                    INTO parsed
                    FROM unnest(messages[first:last], headers[first:last], delays[first:last],
                                visible_at[first:last]) AS new (message, headers, delay, visible_at);
                    ids := '{}';
                    FOR id IN EXECUTE format(
                        '/* pgmq_gateway */ INSERT INTO %s (vt, message, headers)
                         SELECT unnest($1), unnest($2), unnest($3) RETURNING msg_id', plain.tables[n])
                    USING parsed.moments, parsed.messages, parsed.headers LOOP
                        ids := ids || id;
                    END LOOP;
                    IF cardinality(ids) <> counts[n] THEN
                        RAISE SQLSTATE 'PGW23';
                    END IF;
                END IF;
            EXCEPTION WHEN OTHERS OR assert_failure THEN
                GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE;
                outcome := 'retry';
                ids := NULL;
                IF code = '55P03' THEN
                    -- The next ones may stand there too.
                    PERFORM set_config('lock_timeout', '1ms', true);
                END IF;
            END;
        END IF;
        first := last + 1;
        RETURN NEXT;
    END LOOP;
END
$$;
