-- What the SQS front end keeps beside the queues: attributes, tags and names, and ids for deduplication.

-- What is kept of a queue. No row where there is no such queue.
CREATE FUNCTION pgmq_gateway.queue_attributes(queue text)
RETURNS TABLE (alias text, attributes jsonb, tags jsonb, modified_at timestamptz) LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms' AS $$
BEGIN
    IF NOT pgmq_gateway.is_known_queue(queue) THEN
        RETURN;
    END IF;
    RETURN QUERY
    SELECT coalesce(a.alias, queue), pgmq_gateway.kept_texts(a.attributes), pgmq_gateway.kept_texts(a.tags),
           a.modified_at
    FROM (VALUES (1)) one LEFT JOIN pgmq_gateway.queue_attributes a
      ON a.queue_name = queue AND a.queue_id = pgmq_gateway.queue_id(queue);
END
$$;

-- What is kept as an attribute or a tag, if it is one: a text of up to 8 KiB. What SQL has stored otherwise is not
-- there: it would be kept in memory.
CREATE FUNCTION pgmq_gateway.kept_text(value jsonb)
RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN jsonb_typeof(value) = 'string' AND octet_length(value #>> '{}') <= 8192 THEN value #>> '{}' END
$$;

-- Those of an object that are.
CREATE FUNCTION pgmq_gateway.kept_texts(kept jsonb)
RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$
    SELECT coalesce(jsonb_object_agg(e.key, e.value), '{}')
    FROM jsonb_each(CASE jsonb_typeof(kept) WHEN 'object' THEN kept ELSE '{}' END) e
    WHERE pgmq_gateway.kept_text(e.value) IS NOT NULL
$$;

-- Whether what was stored has each member of `wishes` as it is there; null is one that is not to be there.
CREATE FUNCTION pgmq_gateway.is_as_wished(stored jsonb, wishes jsonb)
RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
    SELECT NOT EXISTS (SELECT FROM jsonb_each(jsonb_strip_nulls(wishes)) w
                       WHERE stored -> w.key IS DISTINCT FROM w.value)
       AND NOT EXISTS (SELECT FROM jsonb_each(wishes) w WHERE w.value = 'null' AND stored ? w.key)
$$;

-- An object as it is; an empty one in place of anything else, which SQL may have stored.
CREATE FUNCTION pgmq_gateway.as_object(stored jsonb)
RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE jsonb_typeof(stored) WHEN 'object' THEN stored ELSE '{}' END
$$;

-- Changes what is kept of a queue: null takes an attribute or a tag away. False where there is no such queue; null,
-- and nothing is changed, where an attribute is not as `still` has it any more or, with `first_only`, where something
-- is kept already. Raises PGW35 where it is not stored as it was given.
CREATE FUNCTION pgmq_gateway.change_queue_attributes(
    queue text, new_alias text, new_attributes jsonb, new_tags jsonb, still jsonb DEFAULT '{}',
    first_only boolean DEFAULT false
) RETURNS boolean LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp SET lock_timeout = '250ms' AS $$
DECLARE
    this_queue bigint;
    kept record;
BEGIN
    IF NOT pgmq_gateway.is_known_queue(queue) THEN
        RETURN false;
    END IF;
    this_queue := pgmq_gateway.queue_id(queue);
    INSERT INTO pgmq_gateway.queue_attributes AS a (queue_name, queue_id, alias, attributes, tags)
    SELECT queue, this_queue, new_alias, jsonb_strip_nulls(new_attributes), jsonb_strip_nulls(new_tags)
    -- Where there is no row, no attribute is set.
    WHERE jsonb_strip_nulls(still) = '{}'
       OR EXISTS (SELECT FROM pgmq_gateway.queue_attributes k WHERE k.queue_name = queue)
    ON CONFLICT (queue_name) DO UPDATE
    SET queue_id = excluded.queue_id, modified_at = now(),
        alias = CASE WHEN a.queue_id = excluded.queue_id THEN a.alias ELSE excluded.alias END,
        purged_at = CASE WHEN a.queue_id = excluded.queue_id THEN a.purged_at END,
        attributes = CASE WHEN a.queue_id = excluded.queue_id
                     THEN jsonb_strip_nulls(pgmq_gateway.as_object(a.attributes) || new_attributes)
                     ELSE excluded.attributes END,
        tags = CASE WHEN a.queue_id = excluded.queue_id
               THEN jsonb_strip_nulls(pgmq_gateway.as_object(a.tags) || new_tags) ELSE excluded.tags END
    WHERE pgmq_gateway.may_change_attributes(a, this_queue, still, first_only)
    RETURNING a.queue_id, a.attributes, a.tags INTO kept;
    IF NOT FOUND THEN
        -- A row that the statement passed over is locked by it: it is as it was then.
        SELECT a.* INTO kept FROM pgmq_gateway.queue_attributes a
        WHERE a.queue_name = queue AND NOT pgmq_gateway.may_change_attributes(a, this_queue, still, first_only);
        IF FOUND OR jsonb_strip_nulls(still) <> '{}'
                    AND NOT EXISTS (SELECT FROM pgmq_gateway.queue_attributes a WHERE a.queue_name = queue) THEN
            RETURN NULL;
        END IF;
        RAISE EXCEPTION 'pgmq_gateway.queue_attributes' USING ERRCODE = 'PGW35';
    ELSIF kept.queue_id <> this_queue OR NOT pgmq_gateway.is_as_wished(kept.attributes, new_attributes)
          OR NOT pgmq_gateway.is_as_wished(kept.tags, new_tags) THEN
        RAISE EXCEPTION 'pgmq_gateway.queue_attributes' USING ERRCODE = 'PGW35';
    END IF;
    RETURN true;
END
$$;

-- Whether what is kept of a queue is as it must be for a change (see `change_queue_attributes`).
CREATE FUNCTION pgmq_gateway.may_change_attributes(
    kept pgmq_gateway.queue_attributes, this_queue bigint, still jsonb, first_only boolean
) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
    SELECT NOT (first_only AND kept.queue_id = this_queue)
       AND NOT EXISTS (SELECT FROM jsonb_each_text(still) s WHERE s.value IS DISTINCT FROM
                           CASE WHEN kept.queue_id = this_queue
                                THEN pgmq_gateway.kept_text(kept.attributes -> s.key) END)
$$;

-- Whether a client of SQS emptied a queue less than so many seconds ago.
CREATE FUNCTION pgmq_gateway.is_purged(queue text, pause_seconds integer)
RETURNS boolean LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp SET lock_timeout = '250ms' AS $$
BEGIN
    RETURN EXISTS (SELECT FROM pgmq_gateway.queue_attributes a
                   WHERE a.queue_name = queue AND a.queue_id = pgmq_gateway.queue_id(queue)
                     AND a.purged_at >= clock_timestamp() - make_interval(secs => pause_seconds));
END
$$;

-- Notes that a client of SQS has emptied a queue. Raises PGW35 where that is not stored.
CREATE FUNCTION pgmq_gateway.note_purge(queue text, new_alias text)
RETURNS void LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp SET lock_timeout = '250ms' AS $$
BEGIN
    INSERT INTO pgmq_gateway.queue_attributes AS a (queue_name, queue_id, alias, purged_at)
    VALUES (queue, pgmq_gateway.queue_id(queue), new_alias, clock_timestamp())
    ON CONFLICT (queue_name) DO UPDATE
    SET purged_at = excluded.purged_at, queue_id = excluded.queue_id,
        alias = CASE WHEN a.queue_id = excluded.queue_id THEN a.alias ELSE excluded.alias END,
        attributes = CASE WHEN a.queue_id = excluded.queue_id THEN a.attributes ELSE '{}' END,
        tags = CASE WHEN a.queue_id = excluded.queue_id THEN a.tags ELSE '{}' END;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'pgmq_gateway.queue_attributes' USING ERRCODE = 'PGW35';
    END IF;
END
$$;

-- Forgets which ids were sent to a queue that is emptied up to `up_to`: those of messages that are not there any
-- more. Where policies are in force, what is not to be seen may be there: then it is about those alone that were `seen`
-- before.
CREATE FUNCTION pgmq_gateway.forget_deduplication(queue text, up_to bigint, seen bigint[] DEFAULT NULL)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    this_queue bigint := pgmq_gateway.queue_id(queue);
    q_table regclass := pgmq_gateway.queue_table(queue);
    is_gone text := 'd.msg_id <= $2';
BEGIN
    IF row_security_active(q_table) THEN
        is_gone := 'd.msg_id = ANY ($3)';
    END IF;
    -- A role that was granted its rights before there were such ids has none to work on them.
    -- Each is asked for alone: of several, one would do.
    IF has_table_privilege('pgmq_gateway.deduplication_ids', 'SELECT')
       AND has_table_privilege('pgmq_gateway.deduplication_ids', 'DELETE') THEN
        EXECUTE format(
            'DELETE FROM pgmq_gateway.deduplication_ids d WHERE d.queue_id = $1 AND %s
             AND NOT EXISTS (SELECT FROM %s q WHERE q.msg_id = d.msg_id)', is_gone, q_table
        ) USING this_queue, up_to, coalesce(seen, '{}');
    END IF;
END
$$;

-- Queues that have a table by what clients of SQS call them, in order of the names' bytes: of those whose own names the
-- regular expression `allowed_queues` matches; null is all of them.
CREATE FUNCTION pgmq_gateway.list_aliases(
    prefix text, behind text, max_rows integer, allowed_queues text DEFAULT NULL
) RETURNS TABLE (alias text, queue text) LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp SET lock_timeout = '250ms' AS $$
BEGIN
    RETURN QUERY
    SELECT n.alias, n.queue_name FROM (
        SELECT coalesce(a.alias, m.queue_name::text) AS alias, m.queue_name::text AS queue_name
        FROM pgmq.meta m
        -- As find_queue_table looks for it, without a call for each.
        JOIN pg_catalog.pg_class t
          ON t.relnamespace = 'pgmq'::regnamespace AND t.relname = 'q_' || pgmq_gateway.folded(m.queue_name::text)
         AND t.relkind IN ('r', 'p') AND NOT t.relispartition
        LEFT JOIN pgmq_gateway.queue_attributes a ON a.queue_name = m.queue_name
        WHERE m.queue_name ~ '^[a-z0-9][a-z0-9._-]*$'
          AND (allowed_queues IS NULL OR m.queue_name ~ allowed_queues)
    ) n
    WHERE starts_with(n.alias, prefix) AND n.alias COLLATE "C" > behind
    ORDER BY n.alias COLLATE "C" LIMIT max_rows;
END
$$;

-- Whether an id (see `queue_id`) is that of this queue, `own`, of `another` one, or of `none`.
CREATE FUNCTION pgmq_gateway.whose_id(queue text, id bigint)
RETURNS text LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp SET lock_timeout = '250ms' AS $$
BEGIN
    -- The common case first, as the other one looks at every queue.
    IF pgmq_gateway.queue_id(queue) = id OR pgmq_gateway.is_id_of(queue, id) THEN
        RETURN 'own';
    END IF;
    RETURN CASE WHEN EXISTS (
        SELECT FROM pgmq.meta m LEFT JOIN pgmq_gateway.queue_settings s
          ON s.queue_name = m.queue_name
         AND pgmq_gateway.counts_for(s.bound_created_at, s.database_stamp, s.missing_since, m.created_at)
        WHERE m.queue_name <> queue
          AND pgmq_gateway.own_id(m.queue_name, coalesce(s.queue_created_at, m.created_at)) = id)
    THEN 'another' ELSE 'none' END;
END
$$;

-- The ids of these queues (see `queue_id`), in order; 0 for one that is not there.
CREATE FUNCTION pgmq_gateway.queue_ids(queues text[])
RETURNS SETOF bigint LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp SET lock_timeout = '250ms' AS $$
BEGIN
    RETURN QUERY SELECT CASE WHEN pgmq_gateway.find_queue_table(q.name) IS NULL THEN 0
                             ELSE pgmq_gateway.queue_id(q.name) END
                 FROM unnest(queues) WITH ORDINALITY q (name, place) ORDER BY q.place;
END
$$;

-- What clients of SQS call these queues, in order; null for one that has no other name.
CREATE FUNCTION pgmq_gateway.aliases(queues text[])
RETURNS SETOF text LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp SET lock_timeout = '250ms' AS $$
BEGIN
    RETURN QUERY
    SELECT a.alias FROM unnest(queues) WITH ORDINALITY q (name, place)
    LEFT JOIN pgmq_gateway.queue_attributes a ON a.queue_name = q.name ORDER BY q.place;
END
$$;

-- The queues with a table whose dead letters go to a queue, in order of their names' bytes, as far as they are allowed (see
-- list_aliases).
CREATE FUNCTION pgmq_gateway.dead_letter_sources(
    target text, behind text, max_rows integer, allowed_queues text DEFAULT NULL
) RETURNS TABLE (alias text, queue text) LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp SET lock_timeout = '250ms' AS $$
BEGIN
    RETURN QUERY
    SELECT coalesce(a.alias, m.queue_name::text), m.queue_name::text
    FROM pgmq_gateway.queue_settings s
    JOIN pgmq.meta m ON m.queue_name = s.queue_name
     AND pgmq_gateway.counts_for(s.bound_created_at, s.database_stamp, s.missing_since, m.created_at)
    -- As find_queue_table looks for it, without a call for each.
    JOIN pg_catalog.pg_class t
      ON t.relnamespace = 'pgmq'::regnamespace AND t.relname = 'q_' || pgmq_gateway.folded(m.queue_name::text)
     AND t.relkind IN ('r', 'p') AND NOT t.relispartition
    LEFT JOIN pgmq_gateway.queue_attributes a ON a.queue_name = s.queue_name
    WHERE s.settings ->> 'dead_letter_queue' = target AND s.queue_name <> target
      AND pgmq_gateway.is_name(s.queue_name)
      AND m.queue_name::text COLLATE "C" > behind
      AND (allowed_queues IS NULL OR m.queue_name ~ allowed_queues)
    ORDER BY m.queue_name::text COLLATE "C" LIMIT max_rows;
END
$$;

-- What tells whether a message was sent before, if its sender said so: the header `x-deduplication-id`, within
-- its group where `x-deduplication-scope` is `group`.
CREATE FUNCTION pgmq_gateway.deduplication_key(headers jsonb)
RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    key text := CASE WHEN headers ->> 'x-deduplication-scope' = 'group'
                     THEN coalesce(headers ->> 'x-pgmq-group', '') ELSE '' END
                || E'\n' || (headers ->> 'x-deduplication-id');
BEGIN
    RETURN CASE WHEN octet_length(key) > 500 THEN md5(key) ELSE key END;
END
$$;

-- The id of the message that was sent with the same deduplication id in the last five minutes.
CREATE FUNCTION pgmq_gateway.duplicate_of(this_queue bigint, headers jsonb)
RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN
    RETURN (SELECT d.msg_id FROM pgmq_gateway.deduplication_ids d
            WHERE d.queue_id = this_queue AND d.key = pgmq_gateway.deduplication_key(headers)
              AND d.sent_at > clock_timestamp() - interval '5 minutes');
END
$$;

-- Notes with which deduplication ids messages were sent: those without one have no key. Raises PGW35 where one is not
-- noted, as a trigger may drop what is written there.
CREATE FUNCTION pgmq_gateway.note_deduplication(
    this_queue bigint, keys text[], ids bigint[], message_ids text[]
) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    noted integer;
BEGIN
    INSERT INTO pgmq_gateway.deduplication_ids AS d (queue_id, key, msg_id, message_id, sent_at)
    SELECT this_queue, w.key, w.id, w.message_id, clock_timestamp()
    FROM unnest(keys, ids, message_ids) AS w (key, id, message_id) WHERE w.key IS NOT NULL
    ON CONFLICT (queue_id, key) DO UPDATE
    SET msg_id = excluded.msg_id, message_id = excluded.message_id, sent_at = excluded.sent_at;
    GET DIAGNOSTICS noted = ROW_COUNT;
    IF noted <> cardinality(array_remove(keys, NULL)) THEN
        RAISE SQLSTATE 'PGW35';
    END IF;
END
$$;

-- Whether an error says that deduplication ids can be neither looked up nor written down, and is not one of the server
-- or of what others do.
CREATE FUNCTION pgmq_gateway.is_deduplication_refused(code text, context text)
RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
    SELECT context ~ 'pgmq_gateway\.(note_deduplication|earlier_ids|duplicate_of)\('
       AND code <> '55P03' AND left(code, 2) NOT IN ('08', '25', '40', '53', '57', '58')
$$;

-- Of each of these keys, the id of the message that was sent with it in the last five minutes.
CREATE FUNCTION pgmq_gateway.earlier_ids(this_queue bigint, keys text[])
RETURNS bigint[] LANGUAGE plpgsql SET enable_seqscan = off AS $$
BEGIN
    RETURN ARRAY(
        SELECT (SELECT d.msg_id FROM pgmq_gateway.deduplication_ids d
                WHERE d.queue_id = this_queue AND d.key = k.key
                  AND d.sent_at > clock_timestamp() - interval '5 minutes')
        FROM unnest(keys) WITH ORDINALITY AS k (key, place) ORDER BY k.place);
END
$$;

-- The id of the first message, marked as what is answered for a duplicate of it: with another second bit, by which
-- it is told from those that ids have, whatever their sign.
CREATE FUNCTION pgmq_gateway.of_duplicate(id bigint)
RETURNS bigint LANGUAGE sql IMMUTABLE AS $$
    SELECT id # (1::bigint << 62)
$$;

-- The id in such an answer, marked or not.
CREATE FUNCTION pgmq_gateway.unmarked_id(id bigint)
RETURNS bigint LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN id >> 62 IN (0, -1) THEN id ELSE id # (1::bigint << 62) END
$$;

-- Stores messages as pgmq_gateway.send does, but for those that were sent before: instead of the id of such a
-- one it returns that of the first, as `of_duplicate` does. Whoever calls holds the order of sends.
CREATE FUNCTION pgmq_gateway.send_deduplicated(
    queue text, statement text, messages jsonb[], headers jsonb[], delays integer[],
    visible_at timestamptz[]
) RETURNS SETOF bigint LANGUAGE plpgsql AS $$
DECLARE
    this_queue bigint := pgmq_gateway.queue_id(queue);
    keys text[] := ARRAY(SELECT pgmq_gateway.deduplication_key(h.header)
                         FROM unnest(headers) WITH ORDINALITY AS h (header, place) ORDER BY h.place);
    earlier bigint[] := pgmq_gateway.earlier_ids(this_queue, keys);
    -- Of each, the place of the first that has its key here.
    firsts integer[] := ARRAY(SELECT CASE WHEN k.key IS NULL THEN k.place
                                          ELSE min(k.place) OVER (PARTITION BY k.key) END
                              FROM unnest(keys) WITH ORDINALITY AS k (key, place) ORDER BY k.place);
    -- Those that are stored.
    places integer[] := ARRAY(SELECT f.place FROM unnest(firsts, earlier) WITH ORDINALITY AS f (first, id, place)
                              WHERE f.first = f.place AND f.id IS NULL ORDER BY f.place);
    ids bigint[];
BEGIN
    ids := ARRAY(SELECT s FROM pgmq_gateway.insert_rows(
        statement, ARRAY(SELECT messages[p.n] FROM unnest(places) WITH ORDINALITY AS p (n, i) ORDER BY p.i),
        ARRAY(SELECT headers[p.n] FROM unnest(places) WITH ORDINALITY AS p (n, i) ORDER BY p.i),
        ARRAY(SELECT delays[p.n] FROM unnest(places) WITH ORDINALITY AS p (n, i) ORDER BY p.i),
        ARRAY(SELECT visible_at[p.n] FROM unnest(places) WITH ORDINALITY AS p (n, i) ORDER BY p.i)) s);
    IF cardinality(ids) <> cardinality(places) THEN
        RAISE EXCEPTION '% of % rows were stored', cardinality(ids), cardinality(places)
            USING ERRCODE = 'PGW23';
    END IF;
    PERFORM pgmq_gateway.note_deduplication(
        this_queue, ARRAY(SELECT keys[p.n] FROM unnest(places) WITH ORDINALITY AS p (n, i) ORDER BY p.i), ids,
        ARRAY(SELECT headers[p.n] ->> 'x-message-id'
              FROM unnest(places) WITH ORDINALITY AS p (n, i) ORDER BY p.i));
    RETURN QUERY
        SELECT CASE WHEN p.i IS NULL THEN pgmq_gateway.of_duplicate(coalesce(f.id, ids[o.i])) ELSE ids[p.i] END
        FROM unnest(firsts, earlier) WITH ORDINALITY AS f (first, id, place)
        LEFT JOIN unnest(places) WITH ORDINALITY AS p (n, i) ON p.n = f.place
        LEFT JOIN unnest(places) WITH ORDINALITY AS o (n, i) ON o.n = f.first
        ORDER BY f.place;
END
$$;

-- What the senders of messages with these headers were told as their ids.
CREATE FUNCTION pgmq_gateway.first_message_ids(queue text, headers jsonb[])
RETURNS SETOF text LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp SET lock_timeout = '250ms' AS $$
DECLARE
    this_queue bigint := pgmq_gateway.queue_id(queue);
BEGIN
    RETURN QUERY
    SELECT d.message_id FROM unnest(headers) WITH ORDINALITY h (header, place)
    LEFT JOIN pgmq_gateway.deduplication_ids d
      ON d.queue_id = this_queue AND d.key = pgmq_gateway.deduplication_key(h.header) ORDER BY h.place;
END
$$;

-- Forgets what does not count any more: ids that were sent long ago, tasks that ended, and queues that are
-- gone; what somebody has locked is left for later. True if there may be more.
CREATE FUNCTION pgmq_gateway.delete_expired_attributes(max_rows integer)
RETURNS boolean LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp SET lock_timeout = '250ms' AS $$
DECLARE
    deleted integer;
    more boolean;
BEGIN
    -- To lock rows takes the right to update them.
    IF EXISTS (SELECT FROM unnest('{deduplication_ids,move_tasks,queue_attributes}'::text[]) AS t (name),
                           unnest('{UPDATE,DELETE}'::text[]) AS p (privilege)
               WHERE NOT has_table_privilege('pgmq_gateway.' || t.name, p.privilege)) THEN
        RETURN false;
    END IF;
    DELETE FROM pgmq_gateway.deduplication_ids d WHERE d.ctid = ANY (ARRAY(
        SELECT o.ctid FROM pgmq_gateway.deduplication_ids o
        WHERE o.sent_at < clock_timestamp() - interval '6 minutes'
        ORDER BY o.sent_at LIMIT max_rows FOR UPDATE SKIP LOCKED));
    GET DIAGNOSTICS deleted = ROW_COUNT;
    more := deleted = max_rows;
    DELETE FROM pgmq_gateway.move_tasks t WHERE t.ctid = ANY (ARRAY(
        SELECT o.ctid FROM pgmq_gateway.move_tasks o
        WHERE o.status <> 'RUNNING' AND o.started_at < now() - interval '7 days'
        LIMIT max_rows FOR UPDATE SKIP LOCKED));
    GET DIAGNOSTICS deleted = ROW_COUNT;
    more := more OR deleted = max_rows;
    -- Who is not shown every queue cannot tell which are gone; of those that are missing for a short while only,
    -- as a restore may have it, the settings are there.
    IF NOT row_security_active('pgmq.meta') THEN
        DELETE FROM pgmq_gateway.queue_attributes a WHERE a.ctid = ANY (ARRAY(
            SELECT o.ctid FROM pgmq_gateway.queue_attributes o
            WHERE o.modified_at < now() - interval '1 day'
              AND NOT EXISTS (SELECT FROM pgmq.meta m WHERE m.queue_name = o.queue_name)
              AND NOT EXISTS (SELECT FROM pgmq_gateway.queue_settings s WHERE s.queue_name = o.queue_name)
            LIMIT max_rows FOR UPDATE SKIP LOCKED));
        GET DIAGNOSTICS deleted = ROW_COUNT;
        more := more OR deleted = max_rows;
    END IF;
    RETURN more;
END
$$;

CREATE OR REPLACE FUNCTION pgmq_gateway.take_restored_master_key()
RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE pgmq_gateway.master_key k SET value = NEW.value;
    IF FOUND THEN
        RETURN NULL;
    END IF;
    RETURN NEW;
END
$$;
