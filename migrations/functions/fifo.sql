-- Reading in groups (header x-pgmq-group): what may be delivered of a group is its messages in order
-- of msg_id, up to the first that is hidden.

-- The group of a message in the table `q`, as the index has it.
CREATE FUNCTION pgmq_gateway.group_of()
RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT 'coalesce(q.headers ->> ''x-pgmq-group'', ''_default_fifo_group'')'
$$;

-- Whether a table has the index by which it is read in groups, whatever that is called.
CREATE FUNCTION pgmq_gateway.has_fifo_index(relation regclass)
RETURNS boolean LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN pgmq_gateway.has_group_index(relation, 'msg_id');
END
$$;

-- First messages of groups that may be delivered, in order of msg_id: of the groups of those 1000
-- messages that have been visible for longest or, with `everywhere`, of all groups; of the former at most `most`,
-- the groups whose messages among those are the oldest. `all_seen` says that there are no others. Those messages
-- begin at `since` (floor.sql): it decides which groups are looked at, and never what the first message of a
-- group is. `names` has the group of each.
CREATE FUNCTION pgmq_gateway.group_heads(
    q_table regclass, most integer, everywhere boolean, since timestamptz, OUT heads bigint[],
    OUT names text[], OUT all_seen boolean
) LANGUAGE plpgsql AS $$
DECLARE
    group_of text := pgmq_gateway.group_of();
    -- Each step goes to the next group by the index.
    walk text := format(
        'WITH RECURSIVE walk AS (
            (SELECT %1$s AS g, q.msg_id, q.vt FROM %2$s q ORDER BY %1$s, q.msg_id LIMIT 1)
            UNION ALL
            SELECT next.* FROM walk w, LATERAL (
                SELECT %1$s AS g, q.msg_id, q.vt FROM %2$s q WHERE %1$s > w.g
                ORDER BY %1$s, q.msg_id LIMIT 1) next
         ) SELECT * FROM walk', group_of, q_table);
BEGIN
    all_seen := true;
    IF NOT pgmq_gateway.has_fifo_index(q_table) THEN
        walk := format('SELECT DISTINCT ON (%1$s) %1$s AS g, q.msg_id, q.vt FROM %2$s q
                        ORDER BY %1$s, q.msg_id', group_of, q_table);
    ELSIF NOT everywhere THEN
        EXECUTE format(
            '/* pgmq_gateway */ WITH front AS (
                SELECT %1$s AS g, q.msg_id FROM (
                    SELECT q.headers, q.msg_id FROM %2$s q WHERE q.vt <= statement_timestamp() %3$s
                    ORDER BY q.vt LIMIT 1000) q
             )
             SELECT array_agg(c.msg_id ORDER BY c.msg_id, c.g), array_agg(c.g ORDER BY c.msg_id, c.g),
                    (SELECT count(*) < 1000 FROM front) AND coalesce(count(*) < $1, true)
             -- In this order, a head is looked for only until there are enough.
             FROM (SELECT h.msg_id, f.g FROM (
                SELECT f.g, min(f.msg_id) AS first FROM front f GROUP BY f.g ORDER BY min(f.msg_id)
             ) f, LATERAL (
                -- Bounds of both columns have the index on both used: by another one, thought to be as good where
                -- one group has most messages, this would walk past all of them for another group.
                SELECT q.msg_id, q.vt FROM %2$s q
                WHERE (%1$s, q.msg_id) >= (f.g, -9223372036854775808)
                  AND (%1$s, q.msg_id) <= (f.g, 9223372036854775807)
                ORDER BY %1$s, q.msg_id LIMIT 1) h
             WHERE h.vt <= statement_timestamp() ORDER BY f.first LIMIT $1) c', group_of, q_table,
            CASE WHEN since IS NOT NULL THEN pgmq_gateway.since_condition(since) END
        ) INTO heads, names, all_seen USING most;
        all_seen := coalesce(all_seen, true);
        RETURN;
    END IF;
    EXECUTE format('/* pgmq_gateway */ SELECT array_agg(w.msg_id ORDER BY w.msg_id, w.g),
                           array_agg(w.g ORDER BY w.msg_id, w.g) FROM (%s) w
                    WHERE w.vt <= statement_timestamp()', walk) INTO heads, names;
END
$$;

-- Locks the first messages of a group that may be delivered, if nobody else is at it: the lock on
-- the first one is the lock on the group. Moves those away that were delivered often enough. Where ids are
-- there several times, it is the group `of_group`, and an id is open if all of its messages in the group are.
CREATE FUNCTION pgmq_gateway.lock_group_prefix(
    queue text, q_table regclass, head bigint, max_messages integer, max_receives integer,
    dead_letter_queue text, of_group text, OUT ids bigint[], OUT dead integer, OUT failed integer,
    OUT failed_code text
) LANGUAGE plpgsql AS $$
DECLARE
    group_of text := pgmq_gateway.group_of();
    name text;
    exhausted bigint[];
    step record;
    is_exhausted text := CASE WHEN max_receives IS NULL THEN 'false'
                              ELSE pgmq_gateway.exhausted_condition(q_table, '$3') END;
BEGIN
    dead := 0;
    failed := 0;
    EXECUTE format('/* pgmq_gateway */ SELECT %s FROM %s q
                    WHERE q.msg_id = $1 AND (q.vt <= statement_timestamp()) IS TRUE %s
                    FOR UPDATE SKIP LOCKED', group_of, q_table,
                   CASE WHEN of_group IS NOT NULL THEN format('AND %s = $2', group_of) END)
    INTO name USING head, of_group;
    WHILE name IS NOT NULL LOOP
        -- A statement of its own sees what was committed before the lock was there. What somebody
        -- else has locked is as good as hidden.
        EXECUTE format(
            $query$/* pgmq_gateway */
            WITH first AS MATERIALIZED (
                SELECT q.msg_id, %3$s AS dead FROM %2$s q WHERE %1$s = $1
                ORDER BY %1$s, q.msg_id LIMIT $2
            ), locked AS MATERIALIZED (
                SELECT q.msg_id, q.vt FROM %2$s q
                WHERE q.msg_id = ANY (ARRAY(SELECT f.msg_id FROM first f)) %4$s
                FOR UPDATE SKIP LOCKED
            ), open AS (
                -- As it was when the lock was had, which may be later than what the statement sees.
                SELECT f.msg_id, f.dead,
                       bool_and(coalesce(l.vt <= statement_timestamp(), false))
                           OVER (ORDER BY f.msg_id) AS open
                FROM first f LEFT JOIN locked l ON l.msg_id = f.msg_id
            )
            SELECT array_agg(o.msg_id ORDER BY o.msg_id) FILTER (WHERE NOT o.dead),
                   array_agg(o.msg_id) FILTER (WHERE o.dead)
            FROM open o WHERE o.open
            $query$, group_of, q_table, is_exhausted,
            CASE WHEN of_group IS NOT NULL THEN format('AND %s = $1', group_of) END
        ) INTO ids, exhausted USING name, max_messages, max_receives;
        EXIT WHEN exhausted IS NULL;
        step := pgmq_gateway.dead_letter_each(queue, exhausted, max_receives, dead_letter_queue);
        dead := dead + step.moved;
        IF step.failed <> '{}' THEN
            -- They block their group, as nothing may overtake them.
            failed := cardinality(step.failed);
            failed_code := step.failed_code;
            ids := ARRAY(SELECT i.id FROM unnest(ids) AS i (id)
                         WHERE i.id < (SELECT min(f.id) FROM unnest(step.failed) AS f (id)));
            EXIT;
        END IF;
        EXIT WHEN dead >= 1000;
    END LOOP;
    ids := coalesce(ids, '{}');
    IF of_group IS NOT NULL THEN
        -- One of each id at a time: what is behind others of the same waits for them.
        ids := ARRAY(SELECT DISTINCT i.id FROM unnest(ids) AS i (id)
                     WHERE i.id <= ALL (ARRAY(SELECT u.id FROM unnest(ids) AS u (id)
                                              GROUP BY u.id HAVING count(*) > 1)) ORDER BY i.id);
    END IF;
END
$$;

-- The statement that leases the messages of $2 for $1 seconds, in their order, as rows of a function: behind the
-- columns of a message stand $3, which queue it is, and what is nothing in such rows. Where the table `repeats_ids`, it
-- leases one message of each id, of the group that $4 has for it. The table has headers.
CREATE FUNCTION pgmq_gateway.delivery_statement(q_table regclass, nothing text, repeats_ids boolean)
RETURNS text LANGUAGE plpgsql STABLE AS $$
DECLARE
    stamps text := CASE WHEN pgmq_gateway.has_column(q_table, 'last_read_at') THEN 'm.last_read_at' END;
    columns text := format('m.msg_id, m.read_ct, m.enqueued_at, %s, m.vt, m.message, m.headers',
                           coalesce(stamps, 'NULL::timestamptz'));
    read_at text := CASE WHEN stamps IS NOT NULL THEN ', last_read_at = clock_timestamp()' END;
    visible text := format('FROM %s q WHERE q.vt <= statement_timestamp() AND %s = ', q_table, pgmq_gateway.group_of());
BEGIN
    IF pgmq_gateway.has_rules(q_table) THEN
        -- One at a time, so that there is no order.
        RETURN format(
            '/* pgmq_gateway */ UPDATE %s m SET vt = clock_timestamp() + make_interval(secs => $1),
                                                read_ct = m.read_ct + 1 %s
             WHERE m.msg_id = ANY ($2) %s RETURNING %s, $3::bigint, %s', q_table,
            read_at,
            CASE WHEN repeats_ids
                 THEN 'AND ' || pgmq_gateway.is_first_of(visible || '($4)[1] AND q.msg_id = ($2)[1]') END,
            columns, nothing);
    END IF;
    RETURN format(
        $query$/* pgmq_gateway */
        WITH %6$s delivered AS (
            UPDATE %1$s m
            SET vt = clock_timestamp() + make_interval(secs => $1), read_ct = m.read_ct + 1 %2$s
            %7$s
            RETURNING m.msg_id, m.read_ct, m.enqueued_at, m.vt, m.message %5$s
        )
        SELECT %3$s, $3::bigint, %4$s
        FROM delivered m JOIN unnest($2) WITH ORDINALITY AS c (id, place) ON c.id = m.msg_id
        ORDER BY c.place
        $query$,
        q_table,
        read_at, columns, nothing,
        -- By name: of other columns the role may see nothing.
        concat(', ' || stamps, ', m.headers'),
        CASE WHEN repeats_ids THEN format(
            'chosen AS MATERIALIZED (
                 SELECT c.id, r.* FROM unnest($2, $4) AS c (id, name), LATERAL (
                     SELECT q.tableoid AS relation, q.ctid AS place %s LIMIT 1 FOR UPDATE SKIP LOCKED) r),',
            visible || 'c.name AND q.msg_id = c.id') END,
        CASE WHEN repeats_ids THEN 'FROM chosen c WHERE m.msg_id = c.id AND m.tableoid = c.relation
                                                       AND m.ctid = c.place'
             ELSE 'WHERE m.msg_id = ANY ($2)' END);
END
$$;

-- Leases messages in groups: `grouped` takes as many as possible of the oldest group first,
-- `round_robin` one of each group in turn, `head` the first of each group and no more, and they come
-- in that order. Otherwise as pgmq_gateway.receive; a row that is left blocks its group, and no other.
CREATE FUNCTION pgmq_gateway.receive_fifo(
    queue text, mode text, hide_seconds integer, max_messages integer, want_due boolean,
    max_receives integer, dead_letter_queue text, one_by_one boolean,
    since timestamptz DEFAULT NULL, passed_over bigint[] DEFAULT NULL, passed_over_of bigint DEFAULT NULL
) RETURNS TABLE (
    msg_id bigint, read_ct integer, enqueued_at timestamptz, last_read_at timestamptz,
    vt timestamptz, message jsonb, headers jsonb, queue_id bigint, due_in float8, dead integer,
    kept integer, kept_code text
) LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms' AS $$
DECLARE
    q_table regclass := pgmq_gateway.queue_table(queue);
    this_queue bigint;
    tried bigint[] := '{}';
    tried_groups text[] := '{}';
    repeats_ids boolean;
    blocked integer[];
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
    repeats_ids := pgmq_gateway.repeats_ids(q_table);
    update_statement := pgmq_gateway.delivery_statement(
        q_table, 'NULL::float8, NULL::integer, NULL::integer, NULL::text', repeats_ids);
    IF one_by_one THEN
        PERFORM pgmq_gateway.require_right_to_lease(q_table);
    END IF;
    LOOP
        step := pgmq_gateway.choose_in_groups(
            queue, q_table, mode, max_messages - found_count, max_receives, dead_letter_queue, since,
            repeats_ids, tried, tried_groups);
        dead := dead + step.dead;
        kept := kept + step.failed;
        kept_code := coalesce(step.failed_code, kept_code);
        tried := step.tried;
        tried_groups := step.tried_groups;
        IF NOT one_by_one THEN
            RETURN QUERY EXECUTE update_statement USING hide_seconds, step.chosen, this_queue, step.names;
            found_count := cardinality(step.chosen);
            PERFORM pgmq_gateway.check_at_once();
            EXIT;
        END IF;
        blocked := '{}';
        FOR n IN 1..cardinality(step.chosen) LOOP
            CONTINUE WHEN step.groups[n] = ANY (blocked);
            IF step.chosen[n] = ANY (passed_over) AND passed_over_of = this_queue THEN
                kept := kept + 1;
                kept_code := '57014';
                blocked := blocked || step.groups[n];
                CONTINUE;
            END IF;
            msg_id := NULL;
            began := clock_timestamp();
            BEGIN
                EXECUTE update_statement
                INTO msg_id, read_ct, enqueued_at, last_read_at, vt, message, headers, queue_id, nothing,
                     nothing, nothing, nothing
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
                blocked := blocked || step.groups[n];
            ELSE
                found_count := found_count + 1;
                RETURN NEXT;
            END IF;
        END LOOP;
        -- Where a group is blocked, those behind it have their turn.
        EXIT WHEN blocked = '{}' OR found_count >= max_messages OR kept >= 1000;
    END LOOP;
    IF want_due AND found_count < max_messages THEN
        due_in := pgmq_gateway.due_in(q_table);
    END IF;
    IF due_in IS NOT NULL OR dead > 0 OR kept > 0 THEN
        msg_id := NULL;
        RETURN NEXT;
    END IF;
    PERFORM pgmq_gateway.answer_in_utf8();
END
$$;

-- Chooses messages that may be leased, and locks them: in the order of `mode`, at most `max_messages`, from
-- groups whose heads are not among those that were `tried`. `groups` has the number of each one's group. Where the
-- table `repeats_ids` a group goes by its name: `names` has that of each one, and no id is chosen twice.
CREATE FUNCTION pgmq_gateway.choose_in_groups(
    queue text, q_table regclass, mode text, max_messages integer, max_receives integer,
    dead_letter_queue text, since timestamptz, repeats_ids boolean, INOUT tried bigint[],
    INOUT tried_groups text[], OUT chosen bigint[], OUT names text[], OUT groups integer[],
    OUT dead integer, OUT failed integer, OUT failed_code text
) LANGUAGE plpgsql AS $$
DECLARE
    -- The place of each within its group.
    places integer[] := '{}';
    candidates record;
    taken record;
    head bigint;
    name text;
BEGIN
    chosen := '{}';
    groups := '{}';
    dead := 0;
    failed := 0;
    FOR attempt IN 1..3 LOOP
        -- At first a few more than are wanted, as others may be at some of them.
        candidates := pgmq_gateway.group_heads(
            q_table, CASE WHEN attempt = 1 THEN max_messages + 16 END, attempt = 3, since);
        FOR n IN 1..coalesce(cardinality(candidates.heads), 0) LOOP
            head := candidates.heads[n];
            name := CASE WHEN repeats_ids THEN candidates.names[n] END;
            EXIT WHEN CASE mode
                WHEN 'grouped' THEN cardinality(chosen)
                -- As many groups as messages are wanted: the first of each will do.
                ELSE cardinality(array_positions(places, 1)) END >= max_messages;
            CONTINUE WHEN CASE WHEN repeats_ids THEN name = ANY (tried_groups) ELSE head = ANY (tried) END;
            tried := tried || head;
            IF repeats_ids THEN
                tried_groups := tried_groups || name;
            END IF;
            taken := pgmq_gateway.lock_group_prefix(
                queue, q_table, head,
                CASE mode WHEN 'head' THEN 1 WHEN 'grouped' THEN max_messages - cardinality(chosen)
                     ELSE max_messages END,
                max_receives, dead_letter_queue, name);
            dead := dead + taken.dead;
            failed := failed + taken.failed;
            failed_code := coalesce(taken.failed_code, failed_code);
            IF repeats_ids THEN
                -- What is of another group comes next time, and what is behind it in this one.
                taken.ids := ARRAY(SELECT t.id FROM unnest(taken.ids) AS t (id)
                                   WHERE t.id < ALL (ARRAY(SELECT u.id FROM unnest(taken.ids) AS u (id)
                                                           WHERE u.id = ANY (chosen))) ORDER BY t.id);
                names := names || array_fill(name, ARRAY[cardinality(taken.ids)]);
            ELSE
                -- What came in front meanwhile may have made a head of what is chosen already.
                taken.ids := ARRAY(SELECT t.id FROM unnest(taken.ids) AS t (id)
                                   WHERE t.id <> ALL (chosen) ORDER BY t.id);
            END IF;
            chosen := chosen || taken.ids;
            places := places || ARRAY(SELECT generate_series(1, cardinality(taken.ids)));
            groups := groups || array_fill(cardinality(tried), ARRAY[cardinality(taken.ids)]);
        END LOOP;
        EXIT WHEN candidates.all_seen OR cardinality(chosen) >= max_messages;
    END LOOP;
    IF mode = 'round_robin' THEN
        SELECT coalesce(array_agg(c.id ORDER BY c.place, c.id), '{}'),
               coalesce(array_agg(c.number ORDER BY c.place, c.id), '{}'),
               array_agg(c.name ORDER BY c.place, c.id)
        INTO chosen, groups, names
        FROM (SELECT * FROM unnest(chosen, places, groups, names) AS c (id, place, number, name)
              ORDER BY c.place, c.id LIMIT max_messages) c;
    END IF;
END
$$;
