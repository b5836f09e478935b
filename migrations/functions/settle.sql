-- What becomes of delivered messages. Only what a statement returned is done.

-- Deletes messages by their ids alone. What is not returned is not there; `forbidden` is what a policy or
-- a trigger kept.
CREATE FUNCTION pgmq_gateway.delete(queue text, ids bigint[])
RETURNS TABLE (id bigint, outcome text) LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms' AS $$
DECLARE
    q_table regclass := pgmq_gateway.queue_table(queue);
    deleted integer;
BEGIN
    RETURN QUERY EXECUTE format(
        '/* pgmq_gateway */ DELETE FROM %s q WHERE q.msg_id = ANY ($1)
         RETURNING q.msg_id, ''done''::text', q_table
    ) USING ids;
    GET DIAGNOSTICS deleted = ROW_COUNT;
    IF deleted < cardinality(ids) THEN
        RETURN QUERY EXECUTE format(
            'SELECT q.msg_id, ''forbidden''::text FROM %s q WHERE q.msg_id = ANY ($1)', q_table
        ) USING ids;
    END IF;
END
$$;

-- Moves messages into the archive by their ids alone. Otherwise as `delete`.
CREATE FUNCTION pgmq_gateway.archive(queue text, ids bigint[])
RETURNS TABLE (id bigint, outcome text) LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp SET lock_timeout = '100ms' AS $$
DECLARE
    q_table regclass := pgmq_gateway.queue_table(queue);
    archived bigint[] := pgmq_gateway.move_to_archive(queue, q_table, ids);
BEGIN
    RETURN QUERY SELECT a.id, 'done'::text FROM unnest(archived) AS a (id);
    IF cardinality(archived) < cardinality(ids) THEN
        RETURN QUERY EXECUTE format(
            'SELECT q.msg_id, ''forbidden''::text FROM %s q WHERE q.msg_id = ANY ($1)', q_table
        ) USING ids;
    END IF;
END
$$;

-- Moves messages into the archive and returns the ids of those that were moved. Raises PGW23 if the
-- archive did not take what the queue gave.
CREATE FUNCTION pgmq_gateway.move_to_archive(queue text, q_table regclass, ids bigint[])
RETURNS bigint[] LANGUAGE plpgsql AS $$
DECLARE
    a_table regclass := pgmq_gateway.archive_table(queue);
    columns text := 'msg_id, vt, read_ct, enqueued_at, message';
    column_name text;
    gone bigint;
    archived bigint[];
BEGIN
    FOREACH column_name IN ARRAY ARRAY['last_read_at', 'headers'] LOOP
        IF pgmq_gateway.has_column(q_table, column_name)
           AND pgmq_gateway.has_column(a_table, column_name) THEN
            columns := columns || ', ' || column_name;
        END IF;
    END LOOP;
    EXECUTE format(
        '/* pgmq_gateway */
         WITH gone AS (DELETE FROM %1$s m WHERE m.msg_id = ANY ($1) RETURNING %3$s),
              kept AS (INSERT INTO %2$s (%3$s) SELECT %3$s FROM gone RETURNING msg_id)
         SELECT (SELECT count(*) FROM gone), ARRAY(SELECT k.msg_id FROM kept k)',
        q_table, a_table, columns
    ) INTO gone, archived USING ids;
    IF gone <> cardinality(archived) THEN
        RAISE EXCEPTION 'the archive took % of % messages', cardinality(archived), gone
            USING ERRCODE = 'PGW23';
    END IF;
    RETURN archived;
END
$$;

-- Does one thing to one message, in a subtransaction of its own, if it is at the delivery `number` or that is
-- null: `done`, `missing`, `stale`, `locked` by somebody else, `forbidden` (kept by a policy or a trigger),
-- `conflict` with the archive, `no_archive`, `rejected`, or `failed` for a reason that may pass. Waits for
-- locks as long as its caller does; once it did so in vain, hardly, as the next one may stand there too.
CREATE FUNCTION pgmq_gateway.settle_alone(
    queue text, q_table regclass, action text, id bigint, number integer, hidden_until timestamptz,
    OUT outcome text, OUT constraint_name text
) LANGUAGE plpgsql AS $$
DECLARE
    fits text := 'q.msg_id = $1 AND ($2 IS NULL OR q.read_ct = $2)';
    is_there boolean;
    settled bigint;
    code text;
    context text;
BEGIN
    PERFORM pgmq_gateway.check_at_once();
    EXECUTE format('/* pgmq_gateway */ SELECT %s FROM %s q WHERE q.msg_id = $1', fits, q_table)
    INTO is_there USING id, number;
    IF is_there IS NOT TRUE THEN
        outcome := CASE WHEN is_there IS NULL THEN 'missing' ELSE 'stale' END;
        RETURN;
    END IF;
    IF action = 'archive' THEN
        settled := (pgmq_gateway.move_to_archive(queue, q_table, ARRAY[id]))[1];
    ELSIF action = 'delete' THEN
        EXECUTE format('/* pgmq_gateway */ DELETE FROM %s q WHERE %s RETURNING q.msg_id', q_table, fits)
        INTO settled USING id, number;
    ELSE
        EXECUTE format('/* pgmq_gateway */ UPDATE %s q SET vt = $3 WHERE %s RETURNING q.msg_id', q_table,
                       fits)
        INTO settled USING id, number, hidden_until;
    END IF;
    outcome := 'done';
    IF settled IS NULL THEN
        EXECUTE format('/* pgmq_gateway */ SELECT %s FROM %s q WHERE q.msg_id = $1', fits, q_table)
        INTO is_there USING id, number;
        outcome := CASE WHEN is_there IS NULL THEN 'missing' WHEN is_there THEN 'forbidden'
                        ELSE 'stale' END;
    END IF;
EXCEPTION WHEN OTHERS OR assert_failure THEN
    GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, context = PG_EXCEPTION_CONTEXT,
                            constraint_name = CONSTRAINT_NAME;
    outcome := pgmq_gateway.row_outcome(code, context);
    IF outcome IS NULL THEN
        RAISE;
    END IF;
    IF outcome = 'conflict' AND action = 'archive' THEN
        -- So that those behind it do not meet ids in the archive, too.
        PERFORM pgmq_gateway.advance_sequence(queue, constraint_name);
    ELSIF outcome = 'locked' THEN
        PERFORM set_config('lock_timeout', '1ms', true);
    END IF;
END
$$;

-- Deletes, archives or hides messages of one queue. An entry that says for which delivery it speaks
-- (`read_cts`, `queue_ids`) is `stale` if the message has been delivered since, or stands in another
-- queue of the same name; without that it acts on the id alone. `missing` is what is not there, or was
-- dealt with by an earlier entry. Of several entries that hide a message the last one holds. Nothing is
-- waited for: what somebody else has locked is `locked`. Without an archive, what is to be archived has
-- `no_archive`. What the table refuses fails the whole, unless it is done `one_by_one`: see settle_alone.
CREATE FUNCTION pgmq_gateway.settle(
    queue text, actions text[], ids bigint[], read_cts integer[], queue_ids bigint[],
    delays integer[], visible_at timestamptz[], one_by_one boolean
) RETURNS TABLE (place bigint, outcome text, constraint_name text, vt timestamptz)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms' AS $$
DECLARE
    q_table regclass := pgmq_gateway.queue_table(queue);
    this_queue bigint;
    no_archive boolean := 'archive' = ANY (actions) AND NOT pgmq_gateway.is_whole_table(to_regclass(
        format('pgmq.%I', pgmq.format_table_name(queue, 'a'))));
    locked bigint[];
    counts integer[];
    held bigint[];
    held_counts integer[];
    outcomes text[];
    -- The place of the entry that ends the message of each, where that is another one.
    ended_by bigint[];
    constraints text[] := array_fill(NULL::text, ARRAY[cardinality(ids)]);
    deleted bigint[];
    archived bigint[];
    hidden bigint[];
    chosen bigint[];
    archive_is_locked boolean := false;
    entry record;
BEGIN
    IF one_by_one THEN
        PERFORM set_config('lock_timeout', '5ms', true);
        PERFORM pgmq_gateway.require_unlocked(q_table);
        PERFORM pgmq_gateway.require_privilege(q_table, CASE w.action WHEN 'hide' THEN 'UPDATE'
                                                                      ELSE 'DELETE' END)
        FROM (SELECT DISTINCT a.action FROM unnest(actions) AS a (action)) w;
        IF 'archive' = ANY (actions) AND NOT no_archive THEN
            archive_is_locked := NOT pgmq_gateway.is_unlocked(pgmq_gateway.archive_table(queue));
        END IF;
    END IF;
    IF EXISTS (SELECT FROM unnest(queue_ids) AS i (id) WHERE i.id IS NOT NULL) THEN
        this_queue := pgmq_gateway.queue_id(queue);
    END IF;
    EXECUTE format(
        '/* pgmq_gateway */ SELECT array_agg(q.msg_id), array_agg(q.read_ct) FROM (
            SELECT q.msg_id, q.read_ct FROM %s q WHERE q.msg_id = ANY ($1)
            ORDER BY q.msg_id FOR UPDATE SKIP LOCKED) q', q_table
    ) INTO locked, counts USING ids;
    -- What is there all the same has been locked by somebody else, or must not be updated.
    chosen := ARRAY(SELECT DISTINCT i.id FROM unnest(ids) AS i (id)
                    WHERE i.id <> ALL (coalesce(locked, '{}')));
    IF chosen <> '{}' THEN
        EXECUTE format('/* pgmq_gateway */ SELECT array_agg(q.msg_id), array_agg(q.read_ct) FROM %s q
                        WHERE q.msg_id = ANY ($1)', q_table)
        INTO held, held_counts USING chosen;
    END IF;

    SELECT array_agg(CASE
               WHEN f.fits AND f.action = 'archive' AND no_archive THEN 'no_archive'
               WHEN f.fits AND (f.place = f.ended OR f.ended IS NULL) THEN f.state
               WHEN f.fits OR (f.read_ct IS NULL AND f.same_queue) THEN 'missing'
               ELSE 'stale' END ORDER BY f.place),
           array_agg(CASE WHEN f.fits AND f.place <> f.ended THEN f.ended END ORDER BY f.place)
    INTO outcomes, ended_by
    FROM (
        SELECT e.*, min(e.place) FILTER (WHERE e.fits AND e.action <> 'hide'
                                           AND NOT (e.action = 'archive' AND no_archive))
                        OVER (PARTITION BY e.msg_id) AS ended
        FROM (
            SELECT w.place, w.action, w.msg_id, l.read_ct, l.state,
                   coalesce(w.queue_id = this_queue, true) AS same_queue,
                   l.read_ct IS NOT NULL AND coalesce(w.queue_id = this_queue, true)
                   AND coalesce(w.read_ct = l.read_ct, true) AS fits
            FROM unnest(actions, ids, read_cts, queue_ids) WITH ORDINALITY
                 AS w (action, msg_id, read_ct, queue_id, place)
            LEFT JOIN (
                SELECT a.msg_id, a.read_ct, CASE WHEN one_by_one THEN 'alone' ELSE 'ready' END AS state
                FROM unnest(locked, counts) AS a (msg_id, read_ct)
                UNION ALL
                SELECT b.msg_id, b.read_ct,
                       CASE WHEN row_security_active(q_table) THEN 'alone' ELSE 'locked' END
                FROM unnest(held, held_counts) AS b (msg_id, read_ct)
            ) l ON l.msg_id = w.msg_id
        ) e
    ) f;

    chosen := ARRAY(SELECT w.msg_id FROM unnest(actions, ids, outcomes) AS w (action, msg_id, outcome)
                    WHERE w.action = 'delete' AND w.outcome = 'ready');
    IF chosen <> '{}' THEN
        EXECUTE format('/* pgmq_gateway */
                        WITH gone AS (DELETE FROM %s q WHERE q.msg_id = ANY ($1) RETURNING q.msg_id)
                        SELECT array_agg(g.msg_id) FROM gone g', q_table)
        INTO deleted USING chosen;
    END IF;
    chosen := ARRAY(SELECT w.msg_id FROM unnest(actions, ids, outcomes) AS w (action, msg_id, outcome)
                    WHERE w.action = 'archive' AND w.outcome = 'ready');
    IF chosen <> '{}' THEN
        archived := pgmq_gateway.move_to_archive(queue, q_table, chosen);
    END IF;
    IF 'hide' = ANY (actions) THEN
        EXECUTE format(
            $query$/* pgmq_gateway */
            WITH hidden AS (
                UPDATE %s q SET vt = wish.visible_at
                FROM (
                    SELECT DISTINCT ON (w.msg_id) w.msg_id,
                           pgmq_gateway.moment(w.visible_at, w.delay) AS visible_at
                    FROM unnest($1, $2, $3, $4, $5) WITH ORDINALITY
                         AS w (action, msg_id, delay, visible_at, outcome, place)
                    WHERE w.action = 'hide' AND w.outcome = 'ready'
                    ORDER BY w.msg_id, w.place DESC
                ) wish
                WHERE q.msg_id = wish.msg_id
                RETURNING q.msg_id
            ) SELECT array_agg(h.msg_id) FROM hidden h
            $query$, q_table
        ) INTO hidden USING actions, ids, delays, visible_at, outcomes;
    END IF;
    outcomes := ARRAY(
        SELECT CASE
            WHEN w.outcome <> 'ready' THEN w.outcome
            WHEN w.msg_id = ANY (CASE w.action WHEN 'delete' THEN deleted WHEN 'archive' THEN archived
                                               ELSE hidden END) THEN 'done'
            ELSE 'forbidden' END
        FROM unnest(actions, ids, outcomes) WITH ORDINALITY AS w (action, msg_id, outcome, place)
        ORDER BY w.place);

    IF 'alone' = ANY (outcomes) THEN
        FOR entry IN
            SELECT w.place, s.outcome, s.constraint_name
            FROM unnest(actions, ids, read_cts, delays, visible_at, outcomes) WITH ORDINALITY
                 AS w (action, msg_id, read_ct, delay, visible_at, outcome, place),
                 LATERAL pgmq_gateway.settle_alone(
                     queue, q_table, w.action, w.msg_id, w.read_ct,
                     pgmq_gateway.moment(w.visible_at, w.delay)) s
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

    IF 'hide' = ANY (actions) THEN
        RETURN QUERY EXECUTE format(
            'SELECT w.place, w.outcome, w.constraint_name, q.vt
             FROM unnest($1, $2, $3) WITH ORDINALITY AS w (outcome, msg_id, constraint_name, place)
             LEFT JOIN %s q ON q.msg_id = w.msg_id AND w.outcome = ''done''
             ORDER BY w.place', q_table
        ) USING outcomes, ids, constraints;
    ELSE
        RETURN QUERY SELECT w.place, w.outcome, w.constraint_name, NULL::timestamptz
                     FROM unnest(outcomes, constraints) WITH ORDINALITY
                          AS w (outcome, constraint_name, place) ORDER BY w.place;
    END IF;
END
$$;

-- Hides messages, and shows those that were there as they are now. One that cannot be written out fails
-- the whole or, where they are hidden `one_by_one`, is `unreadable` and left as it was.
CREATE FUNCTION pgmq_gateway.set_visibility(
    queue text, ids bigint[], read_cts integer[], queue_ids bigint[], delays integer[],
    visible_at timestamptz[], one_by_one boolean
) RETURNS TABLE (
    place bigint, outcome text, constraint_name text, msg_id bigint, read_ct integer,
    enqueued_at timestamptz, last_read_at timestamptz, vt timestamptz, message jsonb,
    headers jsonb, queue_id bigint
) LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms' AS $$
DECLARE
    q_table regclass := pgmq_gateway.queue_table(queue);
    readable bigint[] := ids;
    this_queue bigint;
    outcomes text[];
    constraints text[];
BEGIN
    IF one_by_one THEN
        PERFORM set_config('lock_timeout', '5ms', true);
        PERFORM pgmq_gateway.require_unlocked(q_table);
        readable := ARRAY(SELECT CASE WHEN pgmq_gateway.is_readable(q_table, w.id) THEN w.id END
                          FROM unnest(ids) WITH ORDINALITY AS w (id, place) ORDER BY w.place);
    END IF;
    -- It is for receipts alone.
    IF EXISTS (SELECT FROM unnest(queue_ids) AS i (id) WHERE i.id IS NOT NULL) THEN
        this_queue := pgmq_gateway.queue_id(queue);
    END IF;
    SELECT array_agg(s.outcome ORDER BY s.place), array_agg(s.constraint_name ORDER BY s.place)
    INTO outcomes, constraints
    FROM pgmq_gateway.settle(queue, array_fill('hide'::text, ARRAY[cardinality(ids)]), readable,
                             read_cts, queue_ids, delays, visible_at, one_by_one) s;
    RETURN QUERY EXECUTE format(
        'SELECT w.place, CASE WHEN w.id IS NULL THEN ''unreadable'' ELSE w.outcome END,
                w.constraint_name, %s, $3
         FROM unnest($1, $2, $4) WITH ORDINALITY AS w (outcome, id, constraint_name, place)
         LEFT JOIN %s m ON m.msg_id = w.id AND w.outcome = ''done''
         ORDER BY w.place', pgmq_gateway.columns(q_table), q_table
    ) USING outcomes, readable, coalesce(this_queue, 0), constraints;
END
$$;
