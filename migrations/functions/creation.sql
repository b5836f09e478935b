-- Making queues.

-- Makes a queue, once: `outcome` is `created`, `exists` (alike), `differs` (another kind, in
-- `existing`), `partition_differs`, `folds` (onto the queue in `existing`), `taken` (by the relation in
-- `existing`), `partition_of` (the queue in `existing`), `derived` (a name as PGMQ's and PostgreSQL's are for
-- what belongs to queues, which is `refuse_derived`), or `no_partman`.
CREATE FUNCTION pgmq_gateway.create_queue(
    queue text, kind text, partition_interval text, retention text, refuse_derived boolean,
    OUT outcome text, OUT existing text
) LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    partman text := (SELECT quote_ident(n.nspname) FROM pg_extension e
                     JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'pg_partman');
    q_table text := pgmq.format_table_name(queue, 'q');
    alike boolean;
    is_gone boolean;
BEGIN
    PERFORM pgmq_gateway.require_own_session();
    PERFORM pgmq_gateway.lock_queue(queue);
    -- One whose table is gone is made anew, with the archive that it may have left.
    is_gone := pgmq_gateway.find_queue_table(queue) IS NULL
               AND EXISTS (SELECT FROM pgmq.meta m WHERE m.queue_name = queue);
    SELECT CASE WHEN m.is_partitioned THEN 'partitioned' WHEN m.is_unlogged THEN 'unlogged'
           ELSE 'standard' END
    INTO existing FROM pgmq.meta m WHERE m.queue_name = queue AND NOT is_gone;
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
    PERFORM pgmq_gateway.require_shown(queue);
    PERFORM pgmq_gateway.require_table(queue);
    SELECT c.outcome, c.existing INTO outcome, existing
    FROM pgmq_gateway.name_conflict(queue, kind, is_gone) c;
    IF outcome IS NOT NULL THEN
        RETURN;
    ELSIF refuse_derived THEN
        outcome := 'derived';
        RETURN;
    ELSIF kind = 'partitioned' AND partman IS NULL THEN
        outcome := 'no_partman';
        RETURN;
    END IF;
    BEGIN
        IF is_gone THEN
            DELETE FROM pgmq.meta m WHERE m.queue_name = queue;
        END IF;
        CASE kind
            WHEN 'standard' THEN PERFORM pgmq.create_non_partitioned(queue);
            WHEN 'unlogged' THEN PERFORM pgmq.create_unlogged(queue);
            WHEN 'partitioned' THEN
                PERFORM pgmq.create_partitioned(queue, coalesce(partition_interval, '10000'),
                                                coalesce(retention, '100000'));
        END CASE;
    EXCEPTION WHEN duplicate_table OR duplicate_object THEN
        outcome := 'taken';
        existing := q_table;
        RETURN;
    END;
    PERFORM pgmq_gateway.require_whole(queue, kind, partman);
    IF is_gone THEN
        -- Its ids go on behind those of the archive.
        PERFORM pgmq_gateway.advance_sequence(queue, NULL);
    END IF;
    outcome := 'created';
END
$$;

-- Why a queue of a new name cannot be made, as `create_queue` says it; null if nothing is in the way. PGMQ
-- makes tables and indexes only if there are none of their names, and takes what there is for its own;
-- pg_partman does so with partitions. A queue that `keeps_archive` is made anew: what PGMQ knows of it is in
-- nobody's way, and its archive is not, as long as it is a table.
CREATE FUNCTION pgmq_gateway.name_conflict(
    queue text, kind text, keeps_archive boolean, OUT outcome text, OUT existing text
) LANGUAGE plpgsql AS $$
DECLARE
    q_table text := pgmq.format_table_name(queue, 'q');
    a_table text := pgmq.format_table_name(queue, 'a');
BEGIN
    SELECT m.queue_name INTO existing FROM pgmq.meta m
    WHERE lower(m.queue_name) = lower(queue) AND NOT (keeps_archive AND m.queue_name = queue) LIMIT 1;
    IF existing IS NOT NULL THEN
        outcome := 'folds';
        RETURN;
    END IF;
    SELECT c.relname INTO existing FROM pg_catalog.pg_class c
    WHERE c.relnamespace = 'pgmq'::regnamespace
      AND (c.relname IN (q_table, a_table, q_table || '_vt_idx', q_table || '_msg_id_seq',
                         'archived_at_idx_' || queue)
           OR kind = 'partitioned'
              AND (c.relname = q_table || '_part_idx'
                   OR starts_with(c.relname, q_table || '_')
                      AND substr(c.relname, length(q_table) + 2) ~ '^(p[0-9]|default$)'
                   OR starts_with(c.relname, a_table || '_')
                      AND substr(c.relname, length(a_table) + 2) ~ '^(p[0-9]|default$)'))
      AND NOT (keeps_archive AND (c.relname = a_table AND pgmq_gateway.is_whole_table(c.oid)
                                  OR c.relname = 'archived_at_idx_' || queue))
    ORDER BY c.relname LIMIT 1;
    IF existing IS NOT NULL THEN
        outcome := 'taken';
        RETURN;
    END IF;
    -- Of partitions that are yet to be made, too.
    SELECT m.queue_name INTO existing FROM pgmq.meta m
    WHERE m.is_partitioned AND starts_with(queue, lower(m.queue_name) || '_')
      AND substr(queue, length(m.queue_name) + 2) ~ '^(p[0-9]|default$)' LIMIT 1;
    IF existing IS NOT NULL THEN
        outcome := 'partition_of';
    END IF;
END
$$;

-- Raises PGW35 unless all that makes up a new queue is there: what PGMQ's functions do not do, for a trigger
-- or a policy say, they do not tell.
CREATE FUNCTION pgmq_gateway.require_whole(queue text, kind text, partman text)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    q_table regclass := pgmq_gateway.find_queue_table(queue);
    a_table regclass := to_regclass(format('pgmq.%I', pgmq.format_table_name(queue, 'a')));
    whole boolean;
BEGIN
    whole := q_table IS NOT NULL AND pgmq_gateway.is_whole_table(a_table)
         AND EXISTS (SELECT FROM pgmq.meta m WHERE m.queue_name = queue)
         AND (kind = 'partitioned' OR EXISTS (
                 SELECT FROM pg_catalog.pg_index i
                 JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
                 WHERE i.indrelid = q_table AND a.attname = 'vt'));
    IF whole AND kind = 'partitioned' THEN
        EXECUTE format(
            'SELECT count(*) = 2
                    AND bool_and((SELECT count(*) FROM pg_catalog.pg_inherits i WHERE i.inhparent = r.oid) > 1)
             FROM unnest(ARRAY[$1, $2]::regclass[]) r (oid)
             JOIN %s.part_config c ON to_regclass(
                 quote_ident(split_part(c.parent_table, ''.'', 1)) || ''.''
                 || quote_ident(split_part(c.parent_table, ''.'', 2))) = r.oid', partman)
        INTO whole USING q_table, a_table;
    END IF;
    IF NOT whole THEN
        RAISE EXCEPTION 'pgmq.meta, or on tables in general,' USING ERRCODE = 'PGW35';
    END IF;
END
$$;

-- Makes a queue, once, with all that belongs to it. Of one that is there nothing is changed. As
-- create_queue for the outcome.
CREATE FUNCTION pgmq_gateway.put_queue(
    queue text, kind text, partition_interval text, retention text, fifo boolean, wishes jsonb,
    refuse_derived boolean, OUT outcome text, OUT existing text
) LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '100ms' AS $$
DECLARE
    sequence text;
BEGIN
    PERFORM pgmq_gateway.require_own_session();
    SELECT c.outcome, c.existing INTO outcome, existing
    FROM pgmq_gateway.create_queue(queue, kind, partition_interval, retention, refuse_derived) c;
    IF outcome <> 'created' THEN
        RETURN;
    END IF;
    -- Of an unlogged table the ids would begin anew after a crash, beside an archive and receipts
    -- that know the old ones.
    IF kind = 'unlogged' AND current_setting('server_version_num')::integer >= 150000 THEN
        sequence := pg_get_serial_sequence(
            format('pgmq.%I', pgmq.format_table_name(queue, 'q')), 'msg_id');
        EXECUTE format('ALTER SEQUENCE %s SET LOGGED', sequence);
    END IF;
    IF fifo THEN
        PERFORM pgmq_gateway.add_group_index(queue, 'msg_id');
    END IF;
    IF wishes @> '{"fair": true}' THEN
        PERFORM pgmq_gateway.add_group_index(queue, 'vt');
    END IF;
    PERFORM pgmq_gateway.register_queue(queue);
    IF wishes <> '{}' THEN
        PERFORM pgmq_gateway.change_settings(queue, wishes);
    END IF;
END
$$;
