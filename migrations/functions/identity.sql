-- Which queue it is: across restores from a dump, and when another one is made under its name.
--
-- A queue is identified by the moment when it was made, as the database had it in which the gateway saw it
-- first (`queue_created_at`). Queues that were made in one transaction have one moment: there it is raised by less
-- than a second (see `raised_moment`). Its row in queue_settings counts for the queue that was made at
-- `bound_created_at` in the database `database_stamp`; where that is another database, for the queue that has
-- the name here, as the row came by a restore.

-- Which database this is. A copy of it made by dump and restore is another one.
CREATE FUNCTION pgmq_gateway.database_stamp()
RETURNS text LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN format('%s/%s', (SELECT c.system_identifier FROM pg_catalog.pg_control_system() c),
                  (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = current_database()));
EXCEPTION WHEN insufficient_privilege THEN
    RETURN format('?/%s', (SELECT d.oid FROM pg_catalog.pg_database d
                           WHERE d.datname = current_database()));
END
$$;

-- Whether a stamp is this database's. Roles that may not ask for the server's identifier go by the rest.
CREATE FUNCTION pgmq_gateway.is_of_here(stamp text)
RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT pgmq_gateway.is_same_database(stamp, d.here) FROM pgmq_gateway.database_stamp() AS d (here)
$$;

-- The same where the stamp of this database is known, which is read from a file.
CREATE FUNCTION pgmq_gateway.is_same_database(stamp text, here text)
RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
    SELECT stamp = here
        OR (left(stamp, 2) = '?/' OR left(here, 2) = '?/') AND split_part(stamp, '/', 2) = split_part(here, '/', 2)
$$;

-- Whether a row of queue_settings counts for the queue of its name that was made at `created_at`. One that
-- came from another database does, unless there was no such queue there.
CREATE FUNCTION pgmq_gateway.counts_for(
    bound_created_at timestamptz, stamp text, missing_since timestamptz, created_at timestamptz
) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT bound_created_at = created_at
        OR missing_since IS NULL AND NOT pgmq_gateway.is_of_here(stamp)
$$;

-- A moment in microseconds since 1970, and 0 for one that is none. Later times are none in microseconds.
CREATE FUNCTION pgmq_gateway.queue_id_of(made timestamptz)
RETURNS bigint LANGUAGE sql STABLE AS $$
    SELECT CASE WHEN isfinite(made)
                THEN (extract(epoch FROM least(made, '290000-01-01 00:00:00+00'::timestamptz)) * 1000000)::bigint
                ELSE 0 END
$$;

-- A number of up to 56 bits for a name, the same for all names of a table and on every server.
CREATE FUNCTION pgmq_gateway.name_hash(queue text)
RETURNS bigint LANGUAGE sql STABLE AS $$
    SELECT ('x' || left(encode(sha256(convert_to(pgmq_gateway.folded(queue), getdatabaseencoding())), 'hex'), 14)
           )::bit(56)::bigint
$$;

-- Whether a moment can tell queues apart: it has microseconds, and can be raised.
CREATE FUNCTION pgmq_gateway.tells_apart(made timestamptz)
RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT coalesce(made > '-infinity'::timestamptz AND made < '290000-01-01 00:00:00+00'::timestamptz, false)
$$;

-- What tells a queue from every other one, and from an earlier or later one of the same name: the moment when it was
-- made, as it is written down, in microseconds since 1970. A table that PGMQ does not list has none: its id is made
-- of its name, and below 0.
CREATE FUNCTION pgmq_gateway.own_id(queue text, made timestamptz)
RETURNS bigint LANGUAGE sql STABLE AS $$
    SELECT CASE WHEN pgmq_gateway.tells_apart(made) THEN pgmq_gateway.queue_id_of(made)
                ELSE -1 - pgmq_gateway.name_hash(queue) END
$$;

-- The same of a queue by its name. What is asked for is written down, so that a dump carries it.
CREATE FUNCTION pgmq_gateway.queue_id(queue text)
RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    made timestamptz;
    written timestamptz;
BEGIN
    SELECT m.created_at, s.queue_created_at INTO made, written
    FROM pgmq.meta m LEFT JOIN pgmq_gateway.queue_settings s
      ON s.queue_name = m.queue_name
     AND pgmq_gateway.counts_for(s.bound_created_at, s.database_stamp, s.missing_since, m.created_at)
    WHERE m.queue_name = queue;
    IF made IS NULL OR written IS NOT NULL THEN
        RETURN pgmq_gateway.own_id(queue, written);
    END IF;
    IF has_table_privilege('pgmq_gateway.queue_settings', 'INSERT')
       AND has_table_privilege('pgmq_gateway.queue_settings', 'UPDATE')
       AND NOT current_setting('transaction_read_only')::boolean THEN
        BEGIN
            PERFORM pgmq_gateway.register_queue(queue);
            written := (SELECT s.queue_created_at FROM pgmq_gateway.queue_settings s
                        WHERE s.queue_name = queue AND s.bound_created_at = made);
        EXCEPTION WHEN OTHERS THEN
            -- Whoever asks next tries again.
            NULL;
        END;
    END IF;
    -- What will be written down, most likely.
    RETURN pgmq_gateway.own_id(queue, coalesce(written, CASE WHEN pgmq_gateway.shares_moment(queue, made)
                                                             THEN pgmq_gateway.raised_moment(queue, made)
                                                             ELSE made END));
END
$$;

-- Whether PGMQ lists another queue that was made at the same moment.
CREATE FUNCTION pgmq_gateway.shares_moment(queue text, made timestamptz)
RETURNS boolean LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN pgmq_gateway.tells_apart(made)
       AND EXISTS (SELECT FROM pgmq.meta m WHERE m.created_at = made AND m.queue_name <> queue);
END
$$;

-- The moment by which a queue goes that shares its own: the same whoever asks, so that those who may not write it
-- down say the same.
CREATE FUNCTION pgmq_gateway.raised_moment(queue text, made timestamptz)
RETURNS timestamptz LANGUAGE sql STABLE AS $$
    SELECT made + (1 + pgmq_gateway.name_hash(queue) % 999999) * interval '1 microsecond'
$$;

-- Whether another queue is known by a moment, or was.
CREATE FUNCTION pgmq_gateway.is_moment_of_another(queue text, moment timestamptz)
RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    RETURN EXISTS (SELECT FROM pgmq_gateway.queue_settings s
                   WHERE s.queue_name <> queue AND (s.queue_created_at = moment OR s.former_created_at = moment));
END
$$;

-- The raised moment or, where another queue has that one, the next that none has. Whoever takes one has the others
-- wait for the end of the transaction.
CREATE FUNCTION pgmq_gateway.free_moment(queue text, made timestamptz)
RETURNS timestamptz LANGUAGE plpgsql AS $$
DECLARE
    moment timestamptz := pgmq_gateway.raised_moment(queue, made);
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('pgmq_gateway.identities'));
    WHILE pgmq_gateway.is_moment_of_another(queue, moment) LOOP
        moment := moment + interval '1 microsecond';
    END LOOP;
    RETURN moment;
END
$$;

-- Whether an id is, or was, that of a queue. What was given out while it shared its moment, or was known by none,
-- still counts.
CREATE FUNCTION pgmq_gateway.is_id_of(queue text, id bigint)
RETURNS boolean LANGUAGE plpgsql STABLE AS $$
DECLARE
    made timestamptz;
    written timestamptz;
    former timestamptz;
BEGIN
    SELECT m.created_at, s.queue_created_at, s.former_created_at INTO made, written, former
    FROM pgmq.meta m LEFT JOIN pgmq_gateway.queue_settings s
      ON s.queue_name = m.queue_name
     AND pgmq_gateway.counts_for(s.bound_created_at, s.database_stamp, s.missing_since, m.created_at)
    WHERE m.queue_name = queue;
    RETURN id = pgmq_gateway.queue_id_of(coalesce(written, made))
        OR former IS NOT NULL AND id = pgmq_gateway.queue_id_of(former);
END
$$;

-- The ids that receipts for a queue have, with its own in place of one that it had before.
CREATE FUNCTION pgmq_gateway.present_ids(queue text, this_queue bigint, ids bigint[])
RETURNS bigint[] LANGUAGE plpgsql STABLE AS $$
BEGIN
    IF this_queue = ALL (array_remove(ids, NULL)) THEN
        RETURN ids;
    END IF;
    RETURN ARRAY(SELECT CASE WHEN i.id <> this_queue AND pgmq_gateway.is_id_of(queue, i.id) THEN this_queue
                             ELSE i.id END
                 FROM unnest(ids) WITH ORDINALITY AS i (id, place) ORDER BY i.place);
END
$$;
