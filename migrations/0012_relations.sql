-- Names that lead to a relation which is no queue: PostgreSQL has the partitions of a queue, the
-- indexes and the sequences under the same names as PGMQ has the tables of queues.

-- Whether a relation can be a queue's or an archive's: a table that is no part of another one.
CREATE FUNCTION pgmq_gateway.is_whole_table(relation regclass)
RETURNS boolean LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN EXISTS (SELECT FROM pg_catalog.pg_class c
                   WHERE c.oid = relation AND c.relkind IN ('r', 'p') AND NOT c.relispartition);
END
$$;

-- The table of a queue; fails as a statement on it would if there is none. What is_whole_table says
-- is asked here without a call, as every receive comes by.
CREATE OR REPLACE FUNCTION pgmq_gateway.queue_table(queue text)
RETURNS regclass LANGUAGE plpgsql STABLE AS $$
DECLARE
    relation regclass := format('pgmq.%I', pgmq.format_table_name(queue, 'q'))::regclass;
BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = relation
                   AND c.relkind IN ('r', 'p') AND NOT c.relispartition) THEN
        RAISE undefined_table USING MESSAGE = format('%s is not the table of a queue', relation);
    END IF;
    RETURN relation;
END
$$;

-- The archive of a queue, in the same way.
CREATE FUNCTION pgmq_gateway.archive_table(queue text)
RETURNS regclass LANGUAGE plpgsql STABLE AS $$
DECLARE
    relation regclass := format('pgmq.%I', pgmq.format_table_name(queue, 'a'))::regclass;
BEGIN
    IF NOT pgmq_gateway.is_whole_table(relation) THEN
        RAISE undefined_table USING MESSAGE = format('%s is not an archive', relation);
    END IF;
    RETURN relation;
END
$$;

-- The name of a queue that has a table, for functions of PGMQ's, which make a table's name of any.
CREATE FUNCTION pgmq_gateway.queue_named(queue text)
RETURNS text LANGUAGE plpgsql STABLE AS $$
BEGIN
    PERFORM pgmq_gateway.queue_table(queue);
    RETURN queue;
END
$$;

-- As before; `taken` where PGMQ would make something that is there its own.
CREATE OR REPLACE FUNCTION pgmq_gateway.create_queue(
    queue text, kind text, partition_interval text, retention text,
    OUT outcome text, OUT existing text
) LANGUAGE plpgsql AS $$
DECLARE
    partman text := (SELECT quote_ident(n.nspname) FROM pg_extension e
                     JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'pg_partman');
    q_table text := pgmq.format_table_name(queue, 'q');
    alike boolean;
BEGIN
    PERFORM pgmq_gateway.lock_queue(queue);
    SELECT CASE WHEN m.is_partitioned THEN 'partitioned' WHEN m.is_unlogged THEN 'unlogged'
           ELSE 'standard' END
    INTO existing FROM pgmq.meta m WHERE m.queue_name = queue;
    IF existing <> kind THEN
        outcome := 'differs';
        RETURN;
    END IF;
    IF existing IS NOT NULL THEN
        outcome := 'exists';
        IF kind = 'partitioned' AND partman IS NOT NULL AND partition_interval IS NOT NULL THEN
            EXECUTE format(
                'SELECT CASE WHEN $2 ~ ''^[0-9]+$'' OR c.partition_interval ~ ''^[0-9]+$''
                        THEN c.partition_interval = $2 AND c.retention = $3
                        ELSE c.partition_interval::interval = $2::interval
                             AND c.retention::interval = $3::interval END
                 FROM %s.part_config c WHERE c.parent_table = $1', partman)
            INTO alike USING 'pgmq.' || q_table, partition_interval, retention;
            IF NOT coalesce(alike, true) THEN
                outcome := 'partition_differs';
            END IF;
        END IF;
        RETURN;
    END IF;
    SELECT m.queue_name INTO existing FROM pgmq.meta m
    WHERE pgmq.format_table_name(m.queue_name, 'q') = q_table LIMIT 1;
    IF existing IS NOT NULL THEN
        outcome := 'folds';
        RETURN;
    END IF;
    SELECT c.relname INTO existing FROM pg_catalog.pg_class c
    WHERE c.relnamespace = 'pgmq'::regnamespace
      AND c.relname IN (q_table, pgmq.format_table_name(queue, 'a')) LIMIT 1;
    IF existing IS NOT NULL THEN
        outcome := 'taken';
        RETURN;
    END IF;
    IF kind = 'partitioned' AND partman IS NULL THEN
        outcome := 'no_partman';
        RETURN;
    END IF;
    CASE kind
        WHEN 'standard' THEN PERFORM pgmq.create_non_partitioned(queue);
        WHEN 'unlogged' THEN PERFORM pgmq.create_unlogged(queue);
        WHEN 'partitioned' THEN
            PERFORM pgmq.create_partitioned(queue, coalesce(partition_interval, '10000'),
                                            coalesce(retention, '100000'));
    END CASE;
    outcome := 'created';
END
$$;

-- As before; of a name that leads to something other than a queue's table, only the name is dropped.
CREATE OR REPLACE FUNCTION pgmq_gateway.drop_queue(queue text)
RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    partitioned boolean;
BEGIN
    PERFORM pgmq_gateway.lock_queue(queue);
    SELECT m.is_partitioned INTO partitioned FROM pgmq.meta m WHERE m.queue_name = queue;
    IF partitioned IS NULL THEN
        RETURN false;
    END IF;
    IF NOT pgmq_gateway.is_whole_table(
        to_regclass(format('pgmq.%I', pgmq.format_table_name(queue, 'q')))) THEN
        RAISE NOTICE 'the table of % is gone', queue;
    ELSIF to_regprocedure('pgmq.drop_queue(text)') IS NOT NULL THEN
        PERFORM pgmq.drop_queue(queue);
    ELSE
        PERFORM pgmq.drop_queue(queue, partitioned);
    END IF;
    DELETE FROM pgmq_gateway.queue_settings s WHERE lower(s.queue_name) = lower(queue);
    DELETE FROM pgmq.meta m WHERE lower(m.queue_name) = lower(queue);
    RETURN true;
END
$$;

-- As before: what is no queue's table is a queue that is gone.
CREATE OR REPLACE FUNCTION pgmq_gateway.sweep(queues text[])
RETURNS TABLE (queue text, ready boolean, due_in float8, notifies boolean) LANGUAGE plpgsql AS $$
DECLARE
    relation regclass;
BEGIN
    FOREACH queue IN ARRAY queues LOOP
        relation := to_regclass(format('pgmq.%I', pgmq.format_table_name(queue, 'q')));
        due_in := NULL;
        notifies := false;
        IF NOT pgmq_gateway.is_whole_table(relation) THEN
            ready := true;
        ELSE
            EXECUTE format(
                'SELECT pgmq_gateway.seconds_until(q.vt) FROM %s q
                 ORDER BY q.vt LIMIT 1', relation
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

CREATE OR REPLACE FUNCTION pgmq_gateway.browse_archive(
    queue text, after_msg_id bigint, max_messages integer, since timestamptz, until timestamptz,
    filter jsonb
) RETURNS TABLE (
    msg_id bigint, read_ct integer, enqueued_at timestamptz, last_read_at timestamptz,
    vt timestamptz, message jsonb, headers jsonb, relation oid, archived_at timestamptz
) LANGUAGE plpgsql STABLE AS $$
DECLARE
    a_table regclass := pgmq_gateway.archive_table(queue);
BEGIN
    RETURN QUERY EXECUTE format(
        'SELECT %s, 0::oid, m.archived_at FROM %s m WHERE m.msg_id > $1 AND %s
         ORDER BY m.msg_id LIMIT $2',
        pgmq_gateway.columns(a_table), a_table, pgmq_gateway.archive_condition()
    ) USING after_msg_id, max_messages, since, until, filter, NULL::bigint[];
END
$$;

CREATE OR REPLACE FUNCTION pgmq_gateway.count_archived(
    queue text, max_messages bigint, since timestamptz, until timestamptz, filter jsonb,
    ids bigint[]
) RETURNS bigint LANGUAGE plpgsql STABLE AS $$
DECLARE
    counted bigint;
BEGIN
    EXECUTE format(
        'SELECT count(*) FROM (SELECT FROM %s m WHERE m.msg_id > $1 AND %s LIMIT $2) c',
        pgmq_gateway.archive_table(queue), pgmq_gateway.archive_condition()
    ) INTO counted USING 0, max_messages, since, until, filter, ids;
    RETURN counted;
END
$$;

CREATE OR REPLACE FUNCTION pgmq_gateway.replay(
    queue text, target text, after_msg_id bigint, max_messages integer, since timestamptz,
    until timestamptz, filter jsonb, ids bigint[], OUT moved integer, OUT last_id bigint
) LANGUAGE plpgsql AS $$
DECLARE
    a_table regclass := pgmq_gateway.archive_table(queue);
    chosen bigint[];
BEGIN
    EXECUTE format(
        'SELECT array_agg(c.msg_id) FROM (
            SELECT m.msg_id FROM %s m WHERE m.msg_id > $1 AND %s
            ORDER BY m.msg_id LIMIT $2 FOR UPDATE SKIP LOCKED) c',
        a_table, pgmq_gateway.archive_condition()
    ) INTO chosen USING after_msg_id, max_messages, since, until, filter, ids;
    moved := pgmq_gateway.move_back(a_table, target, coalesce(chosen, '{}'));
    IF cardinality(chosen) = max_messages THEN
        last_id := chosen[max_messages];
    END IF;
END
$$;
