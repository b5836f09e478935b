-- Groups (header x-pgmq-group) that take turns, without order or blocking, and the indexes that reading by
-- group takes.

-- Whether a table has a valid index on the group and this column, whatever that is called.
CREATE FUNCTION pgmq_gateway.has_group_index(relation regclass, column_name text)
RETURNS boolean LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN EXISTS (SELECT FROM pgmq_gateway.group_indexes(relation, column_name) i WHERE i.is_valid);
END
$$;

-- The indexes of a table on the group and this column. What they are on is read as it is kept in the catalogue, texts
-- as their bytes: to have it written out waits for whoever has the table locked, or finds that it is gone.
CREATE FUNCTION pgmq_gateway.group_indexes(relation regclass, column_name text)
RETURNS TABLE (index oid, is_valid boolean) LANGUAGE plpgsql STABLE AS $$
DECLARE
    bytes_of_group text := pgmq_gateway.kept_bytes('x-pgmq-group');
    bytes_of_default text := pgmq_gateway.kept_bytes('_default_fifo_group');
BEGIN
    RETURN QUERY SELECT i.indexrelid, i.indisvalid FROM pg_catalog.pg_index i
        JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[1]
        WHERE i.indrelid = relation AND i.indnkeyatts = 2 AND i.indkey[0] = 0 AND a.attname = column_name
          AND i.indexprs::text LIKE '%{COALESCE%' || bytes_of_group || '%' || bytes_of_default || '%';
END
$$;

-- An ASCII text as the catalogue has it within an expression: the last of its bytes, each as a number.
CREATE FUNCTION pgmq_gateway.kept_bytes(content text)
RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT string_agg(ascii(c.letter)::text, ' ' ORDER BY c.place) || ' ]'
    FROM regexp_split_to_table(content, '') WITH ORDINALITY AS c (letter, place)
$$;

-- The statement that makes such an index.
CREATE FUNCTION pgmq_gateway.group_index_statement(queue text, column_name text, how text)
RETURNS text LANGUAGE plpgsql STABLE AS $$
DECLARE
    relation regclass := pgmq_gateway.queue_table(queue);
    -- No table of PGMQ's can have a name that begins like this.
    name text := CASE column_name WHEN 'vt' THEN 'gw_fair_' ELSE 'gw_fifo_' END
                 || pgmq.format_table_name(queue, 'q');
BEGIN
    IF NOT pgmq_gateway.has_column(relation, 'headers') THEN
        PERFORM pgmq_gateway.need_headers('queues that are read in groups need');
    END IF;
    -- Nor is it found by its name.
    RETURN format(
        'CREATE INDEX %s %s ON %s ((coalesce(headers OPERATOR(pg_catalog.->>) ''x-pgmq-group'',
                                             ''_default_fifo_group'')), %I)',
        how, CASE WHEN to_regclass(format('pgmq.%I', name)) IS NULL THEN quote_ident(name) END, relation,
        column_name);
END
$$;

-- Gives a queue that index while nobody else is at its table. Takes the ownership of it.
CREATE FUNCTION pgmq_gateway.add_group_index(queue text, column_name text)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    statement text := pgmq_gateway.group_index_statement(queue, column_name, '');
BEGIN
    IF NOT pgmq_gateway.has_group_index(pgmq_gateway.queue_table(queue), column_name) THEN
        EXECUTE statement;
    END IF;
END
$$;

-- The statements, to be run one by one and outside of transactions, by which a queue gets that index or, not
-- `wanted`, loses it, beside whoever is at work there. Nothing where it is so already.
CREATE FUNCTION pgmq_gateway.group_index_work(queue text, column_name text, wanted boolean)
RETURNS SETOF text LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms' AS $$
DECLARE
    relation regclass := pgmq_gateway.queue_table(queue);
    statement text;
    useless record;
BEGIN
    IF wanted THEN
        statement := pgmq_gateway.group_index_statement(queue, column_name, 'CONCURRENTLY');
        IF pgmq_gateway.has_group_index(relation, column_name) THEN
            -- What another attempt has left beside it costs every send.
            RETURN QUERY SELECT format('DROP INDEX CONCURRENTLY IF EXISTS %I.%I', n.nspname, c.relname)
                         FROM pgmq_gateway.group_indexes(relation, column_name) i
                         JOIN pg_catalog.pg_class c ON c.oid = i.index
                         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                         WHERE NOT i.is_valid AND NOT EXISTS (
                             SELECT FROM pg_catalog.pg_stat_progress_create_index p
                             WHERE p.datname = current_database() AND p.relid = relation);
            RETURN;
        END IF;
        IF pgmq_gateway.differing_column(queue) IS NOT NULL THEN
            RAISE datatype_mismatch;
        END IF;
    END IF;
    -- One that is not valid is what is left of an attempt that was cut short, unless somebody is at it.
    IF EXISTS (SELECT FROM pg_catalog.pg_stat_progress_create_index p
               WHERE p.datname = current_database() AND p.relid = relation) THEN
        RAISE EXCEPTION 'an index of % is being made', relation USING ERRCODE = 'lock_not_available';
    END IF;
    FOR useless IN SELECT n.nspname, c.relname FROM pgmq_gateway.group_indexes(relation, column_name) i
                   JOIN pg_catalog.pg_class c ON c.oid = i.index
                   JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace LOOP
        RETURN NEXT format('DROP INDEX CONCURRENTLY IF EXISTS %I.%I', useless.nspname, useless.relname);
        -- Its name is free then.
        statement := replace(statement, 'CONCURRENTLY  ON',
                             format('CONCURRENTLY %I ON', useless.relname));
    END LOOP;
    IF wanted THEN
        RETURN NEXT statement;
    END IF;
END
$$;

-- Writes down whether a queue is read in groups, once it has, or has lost, the index for that.
CREATE FUNCTION pgmq_gateway.note_fifo(queue text)
RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '100ms' AS $$
BEGIN
    PERFORM pgmq_gateway.register_queue(queue);
    UPDATE pgmq_gateway.queue_settings s
    SET fifo = pgmq_gateway.has_fifo_index(pgmq_gateway.queue_table(queue))
    WHERE s.queue_name = queue;
END
$$;

-- The groups of the visible messages, in order of their names, if those are fewer than 1000: that is found out at
-- a cost that does not grow with the messages in flight, nor with their groups. `are_all` says that it is so.
CREATE FUNCTION pgmq_gateway.visible_groups(
    q_table regclass, since timestamptz, OUT groups text[], OUT are_all boolean
) LANGUAGE plpgsql AS $$
DECLARE
    visible text := format('FROM %s q WHERE q.vt <= statement_timestamp() %s ORDER BY q.vt LIMIT 1000',
                           q_table, pgmq_gateway.since_condition(since));
BEGIN
    -- One that is partitioned has no index for that.
    IF EXISTS (SELECT FROM pg_catalog.pg_partitioned_table p WHERE p.partrelid = q_table) THEN
        groups := '{}';
        are_all := false;
        RETURN;
    END IF;
    -- Their headers are read only where they are few.
    EXECUTE format(
        '/* pgmq_gateway */ WITH few AS MATERIALIZED (
             SELECT count(*) < 1000 AS are_few FROM (SELECT %2$s) q
         )
         SELECT coalesce(array_agg(g.name ORDER BY g.name), ''{}''), (SELECT f.are_few FROM few f)
         FROM (SELECT DISTINCT %1$s AS name FROM (SELECT q.headers %2$s) q
               WHERE (SELECT f.are_few FROM few f)) g', pgmq_gateway.group_of(), visible
    ) INTO groups, are_all;
END
$$;

-- The next groups behind `after_group` (from the first on where that is null) and up to `last_group`, in order
-- of their names, that have something visible. Each step goes to the next group by the index, however many
-- messages a group has, if the table `is_indexed` for that.
CREATE FUNCTION pgmq_gateway.next_groups(
    q_table regclass, is_indexed boolean, after_group text, last_group text, max_groups integer,
    since timestamptz
) RETURNS text[] LANGUAGE plpgsql AS $$
DECLARE
    group_of text := pgmq_gateway.group_of();
    within text := concat(CASE WHEN last_group IS NOT NULL THEN format('AND %s <= $2 ', group_of) END,
                          pgmq_gateway.since_condition(since));
    first_step text := format('SELECT %1$s AS g, q.vt FROM %2$s q WHERE %3$s %4$s', group_of, q_table,
        CASE WHEN after_group IS NULL THEN 'true' ELSE format('%s > $1', group_of) END, within);
    walk text;
    groups text[];
BEGIN
    IF is_indexed THEN
        walk := format(
            'WITH RECURSIVE walk AS (
                (%3$s ORDER BY %1$s, q.vt LIMIT 1)
                UNION ALL
                SELECT next.* FROM walk w, LATERAL (
                    SELECT %1$s AS g, q.vt FROM %2$s q WHERE %1$s > w.g %4$s
                    ORDER BY %1$s, q.vt LIMIT 1) next
             ) SELECT * FROM walk', group_of, q_table, first_step, within);
    ELSE
        walk := format('SELECT DISTINCT ON (f.g) f.* FROM (%s) f ORDER BY f.g, f.vt', first_step);
    END IF;
    EXECUTE format('/* pgmq_gateway */ SELECT array_agg(n.g) FROM (
                        SELECT w.g FROM (%s) w WHERE w.vt <= statement_timestamp() LIMIT $3) n', walk)
    INTO groups USING after_group, last_group, max_groups;
    RETURN coalesce(groups, '{}');
END
$$;

-- Locks up to `share` visible messages of each of these groups, other than those `tried`: first the first of
-- each, then the second, and so on. Of each, `names` has the group. Of an id that is there several times it is one.
CREATE FUNCTION pgmq_gateway.take_of_each(
    q_table regclass, is_indexed boolean, groups text[], share integer, max_receives integer, since timestamptz,
    repeats_ids boolean, tried bigint[], OUT ids bigint[], OUT names text[]
) LANGUAGE plpgsql AS $$
DECLARE
    -- As bounds of both columns, as the planner would else take the index on the time alone where it thinks that
    -- most messages are of one group, and walk past all of these for one of another.
    of_group text := CASE WHEN is_indexed
        THEN '(%1$s, q.vt) >= (g.name, coalesce($5, ''-infinity''))
              AND (%1$s, q.vt) <= (g.name, statement_timestamp())'
        ELSE '%1$s = g.name' END;
BEGIN
    EXECUTE format(
        $query$/* pgmq_gateway */
        SELECT coalesce(array_agg(t.msg_id ORDER BY t.number, t.turn), '{}'),
               coalesce(array_agg(t.name ORDER BY t.number, t.turn), '{}')
        FROM (
            SELECT g.name, g.turn, l.msg_id, row_number() OVER (PARTITION BY g.turn ORDER BY l.vt) AS number %5$s
            FROM unnest($1) WITH ORDINALITY AS g (name, turn), LATERAL (
                SELECT q.msg_id, q.vt FROM %1$s q
                WHERE %2$s AND %3$s AND q.msg_id <> ALL ($3)
                ORDER BY %4$s, q.vt LIMIT $2 FOR UPDATE SKIP LOCKED) l
        ) t %6$s
        $query$, q_table, format(of_group, pgmq_gateway.group_of()),
        pgmq_gateway.deliverable(q_table, NULL, max_receives, since), pgmq_gateway.group_of(),
        CASE WHEN repeats_ids THEN ', row_number() OVER (PARTITION BY l.msg_id ORDER BY g.turn) AS copy' END,
        CASE WHEN repeats_ids THEN 'WHERE t.copy = 1' END
    ) INTO ids, names USING groups, share, tried, max_receives, since;
END
$$;

-- Chooses messages that may be leased, other than those `tried`, and locks them: one of each group in turn,
-- beginning behind `after_group`, and then more of each, as long as there are any. `last_group` is whose turn
-- it was last. `names` has the group of each.
CREATE FUNCTION pgmq_gateway.choose_fairly(
    q_table regclass, after_group text, max_messages integer, max_receives integer, since timestamptz,
    repeats_ids boolean, tried bigint[], OUT chosen bigint[], OUT names text[], OUT last_group text
) LANGUAGE plpgsql AS $$
DECLARE
    at text := after_group;
    is_last_leg boolean := after_group IS NULL;
    groups text[];
    few record := pgmq_gateway.visible_groups(q_table, since);
    is_indexed boolean := pgmq_gateway.has_group_index(q_table, 'vt');
    -- Those that may have more.
    givers text[] := '{}';
    share integer;
    taken record;
    missing integer := max_messages;
BEGIN
    chosen := '{}';
    names := '{}';
    last_group := after_group;
    WHILE missing > 0 LOOP
        IF few.are_all THEN
            groups := ARRAY(SELECT f.g FROM unnest(few.groups) AS f (g)
                            WHERE (at IS NULL OR f.g > at)
                              AND (NOT is_last_leg OR after_group IS NULL OR f.g <= after_group)
                            ORDER BY f.g LIMIT missing);
        ELSE
            groups := pgmq_gateway.next_groups(
                q_table, is_indexed, at, CASE WHEN is_last_leg THEN after_group END, missing, since);
        END IF;
        IF groups = '{}' THEN
            EXIT WHEN is_last_leg;
            is_last_leg := true;
            at := NULL;
            CONTINUE;
        END IF;
        at := groups[cardinality(groups)];
        taken := pgmq_gateway.take_of_each(
            q_table, is_indexed, groups, 1, max_receives, since, repeats_ids, tried || chosen);
        chosen := chosen || taken.ids;
        names := names || taken.names;
        givers := givers || taken.names;
        missing := max_messages - cardinality(chosen);
    END LOOP;
    last_group := coalesce(givers[cardinality(givers)], last_group);
    WHILE missing > 0 AND givers <> '{}' LOOP
        share := (missing + cardinality(givers) - 1) / cardinality(givers);
        taken := pgmq_gateway.take_of_each(
            q_table, is_indexed, givers, share, max_receives, since, repeats_ids, tried || chosen);
        EXIT WHEN taken.ids = '{}';
        chosen := chosen || taken.ids[1:missing];
        names := names || taken.names[1:missing];
        last_group := taken.names[least(missing, cardinality(taken.names))];
        missing := max_messages - cardinality(chosen);
        -- Who gave less than its share has no more.
        givers := ARRAY(SELECT g.name FROM unnest(givers) WITH ORDINALITY AS g (name, turn)
                        WHERE cardinality(array_positions(taken.names, g.name)) = share ORDER BY g.turn);
    END LOOP;
END
$$;

-- Leases messages of groups that take turns. Otherwise as pgmq_gateway.receive; the last row, which has no
-- message, has `last_group`, to be passed on as `after_group`.
CREATE FUNCTION pgmq_gateway.receive_fair(
    queue text, hide_seconds integer, max_messages integer, want_due boolean, max_receives integer,
    dead_letter_queue text, after_group bytea, one_by_one boolean,
    since timestamptz DEFAULT NULL, passed_over bigint[] DEFAULT NULL, passed_over_of bigint DEFAULT NULL
) RETURNS TABLE (
    msg_id bigint, read_ct integer, enqueued_at timestamptz, last_read_at timestamptz,
    vt timestamptz, message jsonb, headers jsonb, queue_id bigint, due_in float8, dead integer,
    kept integer, kept_code text, last_group bytea
) LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms' AS $$
DECLARE
    q_table regclass := pgmq_gateway.queue_table(queue);
    this_queue bigint;
    served text := convert_from(after_group, getdatabaseencoding());
    tried bigint[] := '{}';
    repeats_ids boolean := pgmq_gateway.repeats_ids(q_table);
    kept_before integer;
    found_count integer := 0;
    began timestamptz;
    context text;
    step record;
    update_statement text;
    read_again text;
    nothing text;
    me name := current_user;
    my_role text := current_setting('role');
    my_session name := session_user;
BEGIN
    PERFORM pgmq_gateway.require_own_session();
    dead := 0;
    kept := 0;
    IF NOT pgmq_gateway.has_column(q_table, 'headers') THEN
        PERFORM pgmq_gateway.need_headers('reading in groups needs');
    END IF;
    IF one_by_one THEN
        PERFORM set_config('lock_timeout', '5ms', true);
        PERFORM pgmq_gateway.require_unlocked(q_table);
        PERFORM pgmq_gateway.check_at_once();
    END IF;
    this_queue := pgmq_gateway.queue_id(queue);
    read_again := pgmq_gateway.read_again_statement(q_table);
    one_by_one := one_by_one OR pgmq_gateway.has_row_trigger(q_table, 16)
               OR pgmq_gateway.has_rules(q_table) OR read_again IS NOT NULL;
    IF max_receives IS NOT NULL THEN
        SELECT d.moved, d.failed, d.failed_code INTO dead, kept, kept_code
        FROM pgmq_gateway.dead_letter_exhausted(
            queue, max_messages, NULL, EXISTS (SELECT FROM pg_catalog.pg_partitioned_table p
                                               WHERE p.partrelid = q_table),
            max_receives, dead_letter_queue, since) d;
    END IF;
    update_statement := pgmq_gateway.delivery_statement(
        q_table, 'NULL::float8, NULL::integer, NULL::integer, NULL::text, NULL::bytea', repeats_ids);
    IF one_by_one THEN
        PERFORM pgmq_gateway.require_right_to_lease(q_table);
    END IF;
    LOOP
        step := pgmq_gateway.choose_fairly(
            q_table, served, max_messages - found_count, max_receives, since, repeats_ids, tried);
        served := step.last_group;
        tried := tried || step.chosen;
        IF NOT one_by_one THEN
            RETURN QUERY EXECUTE update_statement USING hide_seconds, step.chosen, this_queue, step.names;
            found_count := cardinality(step.chosen);
            PERFORM pgmq_gateway.check_at_once();
            EXIT;
        END IF;
        kept_before := kept;
        FOR n IN 1..cardinality(step.chosen) LOOP
            IF step.chosen[n] = ANY (passed_over) AND passed_over_of = this_queue THEN
                kept := kept + 1;
                kept_code := '57014';
                CONTINUE;
            END IF;
            msg_id := NULL;
            began := clock_timestamp();
            BEGIN
                EXECUTE update_statement
                INTO msg_id, read_ct, enqueued_at, last_read_at, vt, message, headers, queue_id, nothing,
                     nothing, nothing, nothing, nothing
                USING hide_seconds, ARRAY[step.chosen[n]], this_queue, ARRAY[step.names[n]];
                -- A trigger may have changed it for the rest of the transaction.
                IF current_user <> me THEN
                    PERFORM CASE WHEN session_user <> my_session
                                 THEN set_config('session_authorization', my_session, true) END,
                            set_config('role', my_role, true);
                END IF;
                PERFORM pgmq_gateway.check_at_once();
                IF read_again IS NOT NULL AND msg_id IS NOT NULL THEN
                    EXECUTE read_again
                    INTO msg_id, read_ct, enqueued_at, last_read_at, vt, message, headers
                    USING msg_id, read_ct, enqueued_at, last_read_at, vt, message, headers;
                END IF;
            EXCEPTION WHEN OTHERS OR assert_failure OR query_canceled THEN
                GET STACKED DIAGNOSTICS kept_code = RETURNED_SQLSTATE, context = PG_EXCEPTION_CONTEXT;
                kept_code := pgmq_gateway.code_with_rules(kept_code, q_table);
                IF pgmq_gateway.row_outcome(kept_code, context) IS NULL THEN
                    IF passed_over IS NOT NULL THEN
                        PERFORM pgmq_gateway.end_at_row(kept_code, step.chosen[n], this_queue, began);
                    END IF;
                    RAISE;
                END IF;
                msg_id := NULL;
            END;
            IF msg_id IS NULL THEN
                kept := kept + 1;
            ELSE
                found_count := found_count + 1;
                RETURN NEXT;
            END IF;
        END LOOP;
        -- In place of what was kept, others have their turn.
        EXIT WHEN kept = kept_before OR found_count >= max_messages OR kept >= 1000;
    END LOOP;
    IF want_due AND found_count < max_messages THEN
        due_in := pgmq_gateway.due_in(q_table);
    END IF;
    msg_id := NULL;
    last_group := convert_to(served, getdatabaseencoding());
    RETURN NEXT;
    PERFORM pgmq_gateway.answer_in_utf8();
END
$$;
