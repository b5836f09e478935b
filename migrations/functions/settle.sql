-- What becomes of delivered messages. Only what a statement returned is done.

-- Deletes messages by their ids alone. What is not returned is not there; `forbidden` is what a policy or
-- a trigger kept.
CREATE FUNCTION pgmq_gateway.delete(queue text, ids bigint[])
RETURNS TABLE (id bigint, outcome text) LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms' AS $$
DECLARE
    q_table regclass := to_regclass(format('pgmq.%I', pgmq.format_table_name(queue, 'q')));
    runs_others_code boolean;
    deleted integer;
BEGIN
    IF pgmq_gateway.session_has_changed() THEN
        PERFORM pgmq_gateway.require_own_session();
    END IF;
    -- As in `receive`.
    SELECT c.relkind = 'p' OR c.relhassubclass OR c.relhastriggers OR c.relhasrules OR c.relrowsecurity
    INTO runs_others_code
    FROM pg_catalog.pg_class c
    WHERE c.oid = q_table AND c.relkind IN ('r', 'p') AND NOT c.relispartition;
    IF runs_others_code IS NULL THEN
        PERFORM pgmq_gateway.refuse_queue(queue);
    END IF;
    RETURN QUERY EXECUTE format(
        '/* pgmq_gateway */ DELETE FROM %s q WHERE q.msg_id = ANY ($1)
         RETURNING q.msg_id, ''done''::text', q_table
    ) USING ids;
    GET DIAGNOSTICS deleted = ROW_COUNT;
    IF deleted < cardinality(ids) THEN
        RETURN QUERY EXECUTE format(
            '/* pgmq_gateway */ SELECT q.msg_id, ''forbidden''::text FROM %s q WHERE q.msg_id = ANY ($1)', q_table
        ) USING ids;
    END IF;
    IF runs_others_code THEN
        -- As in `send`.
        EXECUTE '/* pgmq_gateway */ SET CONSTRAINTS ALL IMMEDIATE';
    END IF;
END
$$;

-- Moves messages into the archive by their ids alone. Otherwise as `delete`.
CREATE FUNCTION pgmq_gateway.archive(queue text, ids bigint[])
RETURNS TABLE (id bigint, outcome text) LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp SET lock_timeout = '100ms' AS $$
DECLARE
    q_table regclass := pgmq_gateway.queue_table(queue);
    archived bigint[];
BEGIN
    PERFORM pgmq_gateway.require_own_session();
    archived := pgmq_gateway.move_to_archive(queue, q_table, ids);
    RETURN QUERY SELECT a.id, 'done'::text FROM unnest(archived) AS a (id);
    IF cardinality(archived) < cardinality(ids) THEN
        RETURN QUERY EXECUTE format(
            '/* pgmq_gateway */ SELECT q.msg_id, ''forbidden''::text FROM %s q WHERE q.msg_id = ANY ($1)', q_table
        ) USING ids;
    END IF;
    -- As in `send`.
    EXECUTE '/* pgmq_gateway */ SET CONSTRAINTS ALL IMMEDIATE';
END
$$;

-- Deletes, archives, dead-letters or hides messages of one queue. An entry that says for which delivery it
-- speaks (`read_cts`, `read_stamps`, `queue_ids`) is `stale` if the message has been delivered since, or
-- stands in another queue of the same name; without that it acts on the id alone. `missing` is what is not
-- there, or was dealt with by an earlier entry. Of several entries that hide a message the last one holds.
-- One whose delivery an earlier entry takes back is `stale`. Nothing is waited for: what somebody else has locked is
-- `locked`. Without an archive, what is to go there has `no_archive`. What the table refuses fails the whole, unless it
-- is done `one_by_one`: see settle_alone.
-- With neither true nor false there, what is put off to the commit is left to the caller.
-- Dead letters go to the queue `target` or, without one, into the archive, with their `reasons`. What is
-- hidden with neither a delay nor a moment waits as `backoff` says (see backoff_seconds), and what is
-- `uncounted` has its delivery taken back. Where the table of an older PGMQ lacks what that takes, such an entry has
-- `no_uncount`, and one with a reason `no_reason`; `differs` where this PGMQ has it, as somebody altered the table.
CREATE FUNCTION pgmq_gateway.settle(
    queue text, actions text[], ids bigint[], read_cts integer[], read_stamps bigint[], queue_ids bigint[],
    delays integer[], visible_at timestamptz[], uncounted boolean[], reasons text[], target text,
    backoff float8[], one_by_one boolean
) RETURNS TABLE (place bigint, outcome text, constraint_name text, vt timestamptz)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms' AS $$
DECLARE
    q_table regclass := pgmq_gateway.queue_table(queue);
    this_queue bigint;
    to_archive text[] := '{archive}';
    no_archive boolean := false;
    no_uncount boolean := false;
    no_reason boolean := false;
    locked record;
    held record;
    outcomes text[];
    -- When each that is hidden is to be visible.
    moments timestamptz[];
    -- The place of the entry that ends the message of each, where that is another one.
    ended_by bigint[];
    constraints text[] := array_fill(NULL::text, ARRAY[cardinality(ids)]);
    deleted bigint[];
    archived bigint[];
    dead_lettered bigint[];
    hidden bigint[];
    chosen bigint[];
    archive_is_locked boolean := false;
    entry record;
    -- Whether rows of one id have to be told apart, as deliveries are spoken of.
    repeats_ids boolean := false;
    -- The deliveries that a message of a dead-letter queue had there: those alone it waits for.
    tries text := 'q.read_ct';
BEGIN
    PERFORM pgmq_gateway.require_own_session();
    IF 'dead_letter' = ANY (actions) THEN
        target := (pgmq_gateway.dead_letter_rule(queue, NULL, target)).target;
        IF target IS NULL OR pgmq_gateway.find_queue_table(target) IS NULL THEN
            to_archive := '{archive,dead_letter}';
        END IF;
    END IF;
    IF actions && to_archive THEN
        no_archive := NOT pgmq_gateway.is_whole_table(to_regclass(
            format('pgmq.%I', pgmq.format_table_name(queue, 'a'))));
    END IF;
    IF uncounted IS NOT NULL OR reasons IS NOT NULL THEN
        no_uncount := uncounted IS NOT NULL AND NOT pgmq_gateway.has_column(q_table, 'last_read_at');
        no_reason := reasons IS NOT NULL AND NOT pgmq_gateway.has_column(q_table, 'headers');
    END IF;
    IF one_by_one THEN
        PERFORM set_config('lock_timeout', '5ms', true);
        PERFORM pgmq_gateway.require_unlocked(q_table);
        IF 'hide' = ANY (actions) THEN
            PERFORM pgmq_gateway.require_privilege_on(q_table, 'UPDATE', '{vt}');
        END IF;
        IF 'hide' <> ANY (actions) THEN
            PERFORM pgmq_gateway.require_privilege(q_table, 'DELETE');
        END IF;
        IF 'archive' = ANY (actions) AND NOT no_archive THEN
            archive_is_locked := NOT pgmq_gateway.is_unlocked(pgmq_gateway.archive_table(queue));
            -- With other entries, it is their business alone.
            IF 'archive' = ALL (actions) THEN
                PERFORM pgmq_gateway.require_right_to_archive(q_table, pgmq_gateway.archive_table(queue));
            END IF;
        END IF;
    END IF;
    IF array_remove(queue_ids, NULL) <> '{}' THEN
        this_queue := pgmq_gateway.queue_id(queue);
        queue_ids := pgmq_gateway.present_ids(queue, this_queue, queue_ids);
        repeats_ids := pgmq_gateway.repeats_ids(q_table);
    END IF;
    IF backoff IS NOT NULL AND pgmq_gateway.has_column(q_table, 'headers') THEN
        tries := 'pgmq_gateway.deliveries(q.read_ct, q.headers)';
    END IF;
    IF one_by_one THEN
        SELECT array_agg(l.msg_id) AS ids, array_agg(l.read_ct) AS counts, array_agg(l.stamp) AS stamps,
               array_agg(l.tries) AS tries, array_agg(l.state) AS states
        INTO locked FROM pgmq_gateway.lock_each(q_table, ids, tries, repeats_ids) l;
    ELSE
        -- By name: of other columns the role may see nothing.
        EXECUTE format(
            '/* pgmq_gateway */ SELECT array_agg(q.msg_id) AS ids, array_agg(q.read_ct) AS counts,
                    array_agg(q.stamp) AS stamps, array_agg(q.tries) AS tries, NULL::text[] AS states FROM (
                SELECT q.msg_id, q.read_ct, %1$s AS stamp, %3$s AS tries FROM %2$s q WHERE q.msg_id = ANY ($1)
                ORDER BY q.msg_id FOR UPDATE SKIP LOCKED) q', pgmq_gateway.read_stamp_of(q_table), q_table, tries
        ) INTO locked USING ids;
    END IF;
    -- What is there all the same has been locked by somebody else, or must not be updated.
    chosen := ARRAY(SELECT DISTINCT i.id FROM unnest(ids) AS i (id)
                    WHERE repeats_ids OR i.id <> ALL (coalesce(locked.ids, '{}')));
    IF chosen <> '{}' AND one_by_one IS NOT TRUE THEN
        EXECUTE format('/* pgmq_gateway */ SELECT array_agg(q.msg_id) AS ids, array_agg(q.read_ct) AS counts,
                               array_agg(%s) AS stamps, array_agg(%s) AS tries
                        FROM %s q WHERE q.msg_id = ANY ($1)',
                       pgmq_gateway.read_stamp_of(q_table), tries, q_table)
        INTO held USING chosen;
    ELSE
        SELECT NULL::bigint[] AS ids, NULL::integer[] AS counts, NULL::bigint[] AS stamps,
               NULL::integer[] AS tries INTO held;
    END IF;
    IF repeats_ids AND one_by_one IS NOT TRUE AND NOT EXISTS (
           SELECT h.id FROM unnest(held.ids) AS h (id) GROUP BY h.id HAVING count(*) > 1) THEN
        -- None of these is there twice: they are done together.
        repeats_ids := false;
        SELECT array_agg(h.id) AS ids, array_agg(h.number) AS counts, array_agg(h.stamp) AS stamps,
               array_agg(h.tries) AS tries
        INTO held FROM unnest(held.ids, held.counts, held.stamps, held.tries) AS h (id, number, stamp, tries)
        WHERE h.id <> ALL (coalesce(locked.ids, '{}'));
    END IF;

    SELECT array_agg(CASE
               WHEN f.fits AND f.refused IS NOT NULL THEN f.refused
               -- Its delivery was taken back by an earlier entry.
               WHEN f.fits AND f.says_which AND f.state = 'ready' AND f.ended IS NULL
                    AND f.taken_back < f.place THEN 'stale'
               WHEN f.fits AND (f.place = f.ended OR f.ended IS NULL) THEN f.state
               WHEN f.fits OR (f.state IS NULL AND f.same_queue) THEN 'missing'
               ELSE 'stale' END ORDER BY f.place),
           array_agg(CASE WHEN f.fits AND f.place <> f.ended THEN f.ended END ORDER BY f.place),
           array_agg(CASE WHEN f.action = 'hide' THEN
               pgmq_gateway.hidden_until(f.visible_at, f.delay, f.tries, backoff) END ORDER BY f.place)
    INTO outcomes, ended_by, moments
    FROM (
        -- A partitioned table may have an id twice.
        SELECT DISTINCT ON (e.place) e.*, min(e.place) FILTER (WHERE e.fits AND e.action <> 'hide'
                                           AND e.refused IS NULL)
                        OVER (PARTITION BY e.msg_id, e.read_ct, e.row_stamp) AS ended,
               min(e.place) FILTER (WHERE e.fits AND uncounted[e.place] AND e.refused IS NULL)
                        OVER (PARTITION BY e.msg_id, e.read_ct, e.row_stamp) AS taken_back
        FROM (
            SELECT w.place, w.action, w.msg_id, w.read_ct IS NOT NULL AS says_which, w.delay,
                   w.visible_at, l.read_ct, l.stamp AS row_stamp, l.tries, l.state,
                   CASE WHEN w.action = ANY (to_archive) AND no_archive THEN 'no_archive'
                        WHEN uncounted[w.place] AND no_uncount
                        THEN CASE WHEN pgmq_gateway.pgmq_has('last_read_at') THEN 'differs' ELSE 'no_uncount' END
                        WHEN reasons[w.place] IS NOT NULL AND no_reason
                        THEN CASE WHEN pgmq_gateway.pgmq_has('headers') THEN 'differs' ELSE 'no_reason' END
                        END AS refused,
                   coalesce(w.queue_id = this_queue, true) AS same_queue,
                   l.state IS NOT NULL AND coalesce(w.queue_id = this_queue, true)
                   AND coalesce(w.read_ct = l.read_ct, true)
                   AND coalesce(w.stamp = l.stamp, true) AS fits
            FROM unnest(actions, ids, read_cts, read_stamps, queue_ids, delays, visible_at)
                 WITH ORDINALITY AS w (action, msg_id, read_ct, stamp, queue_id, delay, visible_at, place)
            LEFT JOIN (
                SELECT a.msg_id, a.read_ct, a.stamp, a.tries,
                       coalesce(a.state, CASE WHEN repeats_ids THEN 'alone' ELSE 'ready' END) AS state
                FROM unnest(locked.ids, locked.counts, locked.stamps, locked.tries, locked.states)
                     AS a (msg_id, read_ct, stamp, tries, state)
                UNION ALL
                SELECT b.msg_id, b.read_ct, b.stamp, b.tries,
                       CASE WHEN row_security_active(q_table) THEN 'alone' ELSE 'locked' END
                FROM unnest(held.ids, held.counts, held.stamps, held.tries)
                     AS b (msg_id, read_ct, stamp, tries)
            ) l ON l.msg_id = w.msg_id
        -- What is locked by us is `alone` or `ready`.
        ) e ORDER BY e.place, e.fits DESC, e.state = 'locked'
    ) f;
    IF no_uncount THEN
        uncounted := NULL;
    END IF;

    chosen := ARRAY(SELECT w.msg_id FROM unnest(actions, ids, outcomes) AS w (action, msg_id, outcome)
                    WHERE w.action = 'delete' AND w.outcome = 'ready');
    IF chosen <> '{}' THEN
        deleted := ARRAY(SELECT d FROM pgmq_gateway.delete_returning(q_table, chosen) d);
    END IF;
    chosen := ARRAY(SELECT w.msg_id FROM unnest(actions, ids, outcomes) AS w (action, msg_id, outcome)
                    WHERE w.action = 'archive' AND w.outcome = 'ready');
    IF chosen <> '{}' THEN
        archived := pgmq_gateway.move_to_archive(queue, q_table, chosen);
    END IF;
    chosen := ARRAY(SELECT w.msg_id FROM unnest(actions, ids, outcomes) AS w (action, msg_id, outcome)
                    WHERE w.action = 'dead_letter' AND w.outcome = 'ready');
    IF chosen <> '{}' THEN
        IF pgmq_gateway.dead_letter_together(queue, chosen, target, (
               SELECT jsonb_object_agg(w.msg_id, w.reason)
               FROM unnest(actions, ids, reasons, outcomes) AS w (action, msg_id, reason, outcome)
               WHERE w.action = 'dead_letter' AND w.outcome = 'ready')) THEN
            dead_lettered := chosen;
        ELSE
            outcomes := ARRAY(
                SELECT CASE WHEN w.action = 'dead_letter' AND w.outcome = 'ready' THEN 'alone'
                            ELSE w.outcome END
                FROM unnest(actions, outcomes) WITH ORDINALITY AS w (action, outcome, place)
                ORDER BY w.place);
        END IF;
    END IF;
    IF EXISTS (SELECT FROM unnest(actions, outcomes) AS w (action, outcome)
               WHERE w.action = 'hide' AND w.outcome = 'ready') THEN
        hidden := ARRAY(SELECT h FROM pgmq_gateway.hide_rows(
            q_table, actions, ids, moments, uncounted, outcomes) h);
    END IF;
    outcomes := ARRAY(
        SELECT CASE
            WHEN w.outcome <> 'ready' THEN w.outcome
            WHEN w.msg_id = ANY (CASE w.action WHEN 'delete' THEN deleted WHEN 'archive' THEN archived
                                               WHEN 'dead_letter' THEN dead_lettered
                                               ELSE hidden END) THEN 'done'
            ELSE 'forbidden' END
        FROM unnest(actions, ids, outcomes) WITH ORDINALITY AS w (action, msg_id, outcome, place)
        ORDER BY w.place);
    IF one_by_one IS NOT TRUE AND 'forbidden' = ANY (outcomes) THEN
        -- What has gone with another one, by a foreign key or a trigger, is not kept.
        EXECUTE format(
            '/* pgmq_gateway */ SELECT array_agg(
                 CASE WHEN w.outcome = ''forbidden'' AND NOT EXISTS (SELECT FROM %s q WHERE q.msg_id = w.msg_id)
                      THEN ''missing'' ELSE w.outcome END ORDER BY w.place)
             FROM unnest($1, $2) WITH ORDINALITY AS w (msg_id, outcome, place)', q_table
        ) INTO outcomes USING ids, outcomes;
    END IF;

    IF NOT one_by_one THEN
        PERFORM pgmq_gateway.check_at_once();
    END IF;
    IF 'alone' = ANY (outcomes) THEN
        FOR entry IN
            SELECT w.place, s.outcome, s.constraint_name
            FROM unnest(actions, ids, read_cts, read_stamps, moments, uncounted, reasons, outcomes)
                 WITH ORDINALITY
                 AS w (action, msg_id, read_ct, stamp, visible_at, uncounted, reason, outcome, place),
                 LATERAL pgmq_gateway.settle_alone(
                     queue, q_table, w.action, w.msg_id, w.read_ct, w.visible_at, w.stamp, w.uncounted,
                     w.reason, target) s
            WHERE w.outcome = 'alone' AND NOT (w.action = 'archive' AND archive_is_locked)
            ORDER BY w.place
        LOOP
            outcomes[entry.place] := entry.outcome;
            constraints[entry.place] := entry.constraint_name;
        END LOOP;
        -- Those of the archive that nobody waits for.
        outcomes := array_replace(outcomes, 'alone', 'locked');
    END IF;

    -- What another entry was to end, and did not, is not missing.
    IF 'missing' = ANY (outcomes) THEN
        outcomes := ARRAY(
            SELECT CASE WHEN w.outcome = 'missing' AND outcomes[w.ended_by] <> 'done'
                        THEN outcomes[w.ended_by] ELSE w.outcome END
            FROM unnest(outcomes, ended_by) WITH ORDINALITY AS w (outcome, ended_by, place)
            ORDER BY w.place);
    END IF;

    IF 'differs' = ALL (outcomes) AND pgmq_gateway.differing_column(queue) IS NOT NULL THEN
        RAISE datatype_mismatch;
    END IF;
    IF EXISTS (SELECT FROM unnest(actions, outcomes) AS w (action, outcome)
               WHERE w.action = 'hide' AND w.outcome = 'done') THEN
        RETURN QUERY EXECUTE format(
            '/* pgmq_gateway */ SELECT DISTINCT ON (w.place) w.place, w.outcome, w.constraint_name,
                    CASE WHEN w.outcome = ''done'' THEN coalesce(q.vt, w.moment) END
             FROM unnest($1, $2, $3, $4, $5, $6)
                  WITH ORDINALITY AS w (outcome, msg_id, constraint_name, moment, read_ct, stamp, place)
             LEFT JOIN %s ORDER BY w.place, q.vt DESC',
             -- One by one, no row is looked at that is not done: a policy may fail at it.
             format(CASE WHEN one_by_one
                         THEN 'LATERAL (SELECT q.vt FROM %s q WHERE q.msg_id = w.msg_id AND w.outcome = ''done'' %s
                                        ORDER BY q.vt DESC LIMIT 1) q ON true'
                         ELSE '%s q ON q.msg_id = w.msg_id AND w.outcome = ''done'' %s' END,
                    q_table, CASE WHEN repeats_ids THEN pgmq_gateway.is_delivery(q_table) END)
        ) USING outcomes, ids, constraints, moments, read_cts, read_stamps;
    ELSE
        RETURN QUERY SELECT w.place, w.outcome, w.constraint_name, NULL::timestamptz
                     FROM unnest(outcomes, constraints) WITH ORDINALITY
                          AS w (outcome, constraint_name, place) ORDER BY w.place;
    END IF;
END
$$;
