-- Moments that no calendar has, such as infinity, by which an SQL client parks a message.

-- Seconds until the next hidden message of a queue's table becomes visible.
CREATE OR REPLACE FUNCTION pgmq_gateway.due_in(q_table text)
RETURNS float8 LANGUAGE plpgsql AS $$
DECLARE
    due float8;
BEGIN
    EXECUTE format(
        'SELECT pgmq_gateway.seconds_until(q.vt) FROM pgmq.%I q
         WHERE q.vt > statement_timestamp() ORDER BY q.vt LIMIT 1', q_table
    ) INTO due;
    RETURN due;
END
$$;

-- Seconds until a moment; at most a day, in which somebody will ask again.
CREATE FUNCTION pgmq_gateway.seconds_until(moment timestamptz)
RETURNS float8 LANGUAGE sql VOLATILE AS $$
    SELECT extract(epoch FROM greatest(least(moment, clock_timestamp() + interval '1 day'),
                                       clock_timestamp() - interval '1 day')
                              - clock_timestamp())::float8
$$;

-- As before.
CREATE OR REPLACE FUNCTION pgmq_gateway.sweep(queues text[])
RETURNS TABLE (queue text, ready boolean, due_in float8, notifies boolean) LANGUAGE plpgsql AS $$
DECLARE
    q_table text;
    relation regclass;
BEGIN
    FOREACH queue IN ARRAY queues LOOP
        q_table := pgmq.format_table_name(queue, 'q');
        relation := to_regclass(format('pgmq.%I', q_table));
        due_in := NULL;
        notifies := false;
        IF relation IS NULL THEN
            ready := true;
        ELSE
            EXECUTE format(
                'SELECT pgmq_gateway.seconds_until(q.vt) FROM pgmq.%I q
                 ORDER BY q.vt LIMIT 1', q_table
            ) INTO due_in;
            ready := coalesce(due_in <= 0, false);
            notifies := EXISTS (
                SELECT FROM pg_catalog.pg_trigger t WHERE t.tgrelid = relation
                AND t.tgname = 'trigger_notify_queue_insert_listeners');
        END IF;
        RETURN NEXT;
    END LOOP;
END
$$;
