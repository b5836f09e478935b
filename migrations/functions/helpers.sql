-- What the other functions stand on: tables of queues, which queue it is, and what older PGMQs lack.
--
-- Functions that the gateway calls have the search path pinned, and wait for a lock only shortly, as they
-- hold one of few connections meanwhile: who called them tries again for as long as that makes sense. Errors
-- of class PGW are for the gateway: 01 a missing feature, 04 a missing message, 05 headers for which there is
-- no place, 09 a stale receipt, 13 a message that is too large, 14 a publication that is, 22 a row that its
-- table refused, 23 a row that was not stored, 26 one that is kept where it was to be taken from, 33 a right that is
-- missing, 34 a queue that policies hide, 35 what a table of the gateway's or of PGMQ's did not take, 40 a missing
-- queue, 41 a bad routing key, 43 a table that is not as PGMQ makes it, 44 a missing archive, 54 a message that cannot
-- be sent, 55 a locked message. Details are JSON.
--
-- Statements on tables of queues begin with a mark, by which row_outcome knows them in an error's context.

-- Whether a relation can be a queue's or an archive's: a table that is no part of another one.
CREATE FUNCTION pgmq_gateway.is_whole_table(relation regclass)
RETURNS boolean LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN EXISTS (SELECT FROM pg_catalog.pg_class c
                   WHERE c.oid = relation AND c.relkind IN ('r', 'p') AND NOT c.relispartition);
END
$$;

-- The table of a queue, null if there is none. Of what people write into tables and headers some is no name, which
-- PGMQ's function for it refuses.
CREATE FUNCTION pgmq_gateway.find_queue_table(queue text)
RETURNS regclass LANGUAGE plpgsql STABLE AS $$
DECLARE
    relation regclass := CASE WHEN queue !~ '[$;'']|--' THEN
        to_regclass(format('pgmq.%I', pgmq.format_table_name(queue, 'q'))) END;
BEGIN
    RETURN CASE WHEN pgmq_gateway.is_whole_table(relation) THEN relation END;
END
$$;

-- The same, for those who ask from outside.
CREATE FUNCTION pgmq_gateway.table_of(queue text)
RETURNS regclass LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms' AS $$
BEGIN
    RETURN pgmq_gateway.find_queue_table(queue);
END
$$;

-- Whether a queue that has a table goes by exactly this name: PGMQ lists it so, or lists none that has this table,
-- in which messages are stored and read all the same.
CREATE FUNCTION pgmq_gateway.goes_by(queue text)
RETURNS boolean LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN EXISTS (SELECT FROM pgmq.meta m WHERE m.queue_name = queue)
        OR NOT EXISTS (SELECT FROM pgmq.meta m WHERE lower(m.queue_name) = lower(queue));
END
$$;

-- The table of a queue. Raises PGW40 if there is none.
CREATE FUNCTION pgmq_gateway.queue_table(queue text)
RETURNS regclass LANGUAGE plpgsql STABLE AS $$
DECLARE
    relation regclass := to_regclass(format('pgmq.%I', pgmq.format_table_name(queue, 'q')));
BEGIN
    -- What is_whole_table says, asked without a call, as every statement comes by.
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = relation
                   AND c.relkind IN ('r', 'p') AND NOT c.relispartition) THEN
        PERFORM pgmq_gateway.refuse_queue(queue);
    END IF;
    RETURN relation;
END
$$;

-- The archive of a queue. Raises PGW40 without the queue, PGW44 if only the archive is missing.
CREATE FUNCTION pgmq_gateway.archive_table(queue text)
RETURNS regclass LANGUAGE plpgsql STABLE AS $$
DECLARE
    relation regclass := to_regclass(format('pgmq.%I', pgmq.format_table_name(queue, 'a')));
BEGIN
    IF NOT pgmq_gateway.is_whole_table(relation) THEN
        PERFORM pgmq_gateway.queue_table(queue);
        RAISE EXCEPTION '%', queue USING ERRCODE = 'PGW44';
    END IF;
    RETURN relation;
END
$$;

-- The name of a queue that has a table, for functions of PGMQ's, which make a table's name of any. Raises
-- PGW23 where a trigger may keep a row as it is: those behind it would not be read. So it does where one comes after
-- the update: what it changes would not be told.
CREATE FUNCTION pgmq_gateway.checked_queue_name(queue text)
RETURNS text LANGUAGE plpgsql STABLE AS $$
BEGIN
    IF pgmq_gateway.has_row_trigger(pgmq_gateway.queue_table(queue), 16)
       OR pgmq_gateway.has_after_trigger(pgmq_gateway.queue_table(queue)) THEN
        RAISE SQLSTATE 'PGW23';
    END IF;
    RETURN queue;
END
$$;

-- Whether a table has a column: those of older PGMQs lack some. One that was dropped a moment ago has
-- none, which is not the mark of an old PGMQ.
CREATE FUNCTION pgmq_gateway.has_column(relation regclass, name text)
RETURNS boolean LANGUAGE plpgsql STABLE AS $$
BEGIN
    IF EXISTS (SELECT FROM pg_catalog.pg_attribute a
               WHERE a.attrelid = relation AND a.attname = name AND NOT a.attisdropped) THEN
        RETURN true;
    END IF;
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = relation) THEN
        RAISE undefined_table USING MESSAGE = format('relation %s is gone', relation::oid);
    END IF;
    RETURN false;
END
$$;

-- A message's columns in the table `m`, in the order in which all functions return them. Tables of
-- older PGMQs lack some: they came with 1.5 (headers) and 1.10 (last_read_at).
CREATE FUNCTION pgmq_gateway.columns(relation regclass)
RETURNS text LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN format('m.msg_id, m.read_ct, m.enqueued_at, %s, m.vt, m.message, %s',
        CASE WHEN pgmq_gateway.has_column(relation, 'last_read_at')
             THEN 'm.last_read_at' ELSE 'NULL::timestamptz' END,
        CASE WHEN pgmq_gateway.has_column(relation, 'headers')
             THEN 'm.headers' ELSE 'NULL::jsonb' END);
END
$$;

-- Refuses what needs the column `headers` of a table that has none: as of an old PGMQ or, where this one has it, as of a
-- table that somebody altered.
CREATE FUNCTION pgmq_gateway.need_headers(what text DEFAULT 'headers need')
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF pgmq_gateway.pgmq_has('headers') THEN
        RAISE undefined_column USING MESSAGE = 'column headers is gone';
    END IF;
    RAISE EXCEPTION '% PGMQ 1.5.0 or later', what USING ERRCODE = 'PGW01';
END
$$;

-- Whoever makes, changes and drops a queue takes turns; the lock is PGMQ's own.
CREATE FUNCTION pgmq_gateway.lock_queue(queue text)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('pgmq.queue_' || queue));
END
$$;

-- Takes the same lock if nobody has it; says whether.
CREATE FUNCTION pgmq_gateway.try_lock_queue(queue text)
RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    RETURN pg_try_advisory_xact_lock(hashtext('pgmq.queue_' || queue));
END
$$;

-- Fails at once (55P03) where somebody has locked the whole table of a queue.
CREATE FUNCTION pgmq_gateway.require_unlocked(relation regclass)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('LOCK TABLE %s IN ROW EXCLUSIVE MODE NOWAIT', relation);
EXCEPTION WHEN insufficient_privilege THEN
    -- It takes more rights than storing messages does.
    NULL;
END
$$;

-- Has a statement wait for no lock from here on, once it did so in vain: the next ones may stand there too.
CREATE FUNCTION pgmq_gateway.lose_patience(code text)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF code = '55P03' THEN
        PERFORM set_config('lock_timeout', '1ms', true);
    END IF;
END
$$;

-- What a lock that somebody has on the whole table of a queue leaves to others: `all`, `looks` or `none`.
CREATE FUNCTION pgmq_gateway.table_access(queue text)
RETURNS text LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    q_table regclass := pgmq_gateway.queue_table(queue);
BEGIN
    IF pgmq_gateway.is_unlocked(q_table) THEN
        RETURN 'all';
    END IF;
    EXECUTE format('LOCK TABLE %s IN ACCESS SHARE MODE NOWAIT', q_table);
    RETURN 'looks';
EXCEPTION WHEN lock_not_available THEN
    RETURN 'none';
END
$$;

-- The same without failing.
CREATE FUNCTION pgmq_gateway.is_unlocked(relation regclass)
RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pgmq_gateway.require_unlocked(relation);
    RETURN true;
EXCEPTION WHEN lock_not_available THEN
    RETURN false;
END
$$;

-- The moment that is meant by `visible_at` or, without it, by so many seconds from now. What is past is
-- now: nothing overtakes what has waited for longer.
CREATE FUNCTION pgmq_gateway.moment(visible_at timestamptz, delay integer)
RETURNS timestamptz LANGUAGE sql VOLATILE AS $$
    SELECT CASE WHEN visible_at IS NULL THEN clock_timestamp() + make_interval(secs => delay)
                ELSE greatest(visible_at, clock_timestamp()) END
$$;

-- Seconds until a moment; at most a day, in which somebody will ask again.
CREATE FUNCTION pgmq_gateway.seconds_until(moment timestamptz)
RETURNS float8 LANGUAGE sql VOLATILE AS $$
    SELECT extract(epoch FROM greatest(least(moment, clock_timestamp() + interval '1 day'),
                                       clock_timestamp() - interval '1 day')
                              - clock_timestamp())::float8
$$;

-- Whether a statement was told to stop, by its time or by somebody. A trigger can raise the same of itself, and
-- passes it on from another server. In no language has PL/pgSQL another word for it.
CREATE FUNCTION pgmq_gateway.is_told_to_stop(code text, context text)
RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
    SELECT code = '57014' AND split_part(context, E'\n', 1) !~ '(^|[^A-Za-z0-9_"])RAISE($|[^A-Za-z0-9_"])'
       AND context !~ 'dblink connection|remote SQL'
$$;

-- What an error says of the row that was worked on, as the gateway reads it; null for one that is about the
-- server, the connection, the table or the transaction, so that no other row fares better. `context` is that
-- of the error: what stands before the mark with which our statements begin was set off by one, as triggers
-- are, and is about the row whatever it says.
CREATE FUNCTION pgmq_gateway.row_outcome(code text, context text)
RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    mark integer := strpos(context, '/* pgmq_gateway */');
    is_foreign boolean := mark > 0 AND strpos(left(context, mark), E'\n') > 0;
BEGIN
    RETURN CASE
        -- A trigger may know our codes.
        WHEN is_foreign AND left(code, 3) = 'PGW' THEN 'rejected'
        WHEN code IN ('PGW01', 'PGW14', 'PGW33', 'PGW40', 'PGW43') THEN NULL
        WHEN pgmq_gateway.is_told_to_stop(code, context) THEN NULL
        -- The sequence of the ids has reached its end.
        WHEN code = '2200H' AND NOT is_foreign THEN NULL
        WHEN code = 'PGW05' THEN 'needs_headers'
        WHEN code = 'PGW23' THEN 'not_stored'
        WHEN code = 'PGW44' THEN 'no_archive'
        WHEN code = '23505' THEN 'conflict'
        -- By a policy, or because a trigger needs a right that the role lacks.
        WHEN code = '42501' THEN 'forbidden'
        -- What is undone because of others is worth another try, as is what they have locked.
        WHEN code = '55P03' OR left(code, 2) = '40' THEN 'locked'
        WHEN left(code, 2) = 'HV' THEN 'failed'
        -- Of the server, or of what a trigger reaches for: that may pass.
        WHEN left(code, 2) IN ('08', '53', '57', '58') THEN CASE WHEN is_foreign THEN 'failed' END
        WHEN left(code, 2) IN ('25', '55', 'F0', 'XX') AND NOT is_foreign THEN NULL
        -- The table is not as PGMQ makes it, or was dropped in that moment: then its name is gone, or is a number.
        WHEN (pgmq_gateway.is_of_shape(code) OR code IN ('42P01', '42601')) AND NOT is_foreign THEN NULL
        -- An expression on the table, as that of a policy, asks for a setting that is not there.
        WHEN code = '42704' AND mark > 0 AND NOT is_foreign THEN 'forbidden'
        ELSE 'rejected'
    END;
END
$$;

-- The same of a row that was to be stored in a table. Where policies are in force, and neither a trigger, a check nor a
-- computed column is there, it was a policy that failed: the message is not to blame.
CREATE FUNCTION pgmq_gateway.store_outcome(relation regclass, code text, context text)
RETURNS text LANGUAGE plpgsql STABLE AS $$
DECLARE
    outcome text := pgmq_gateway.row_outcome(code, context);
BEGIN
    IF outcome = 'rejected' AND left(code, 2) <> '23' AND strpos(context, '/* pgmq_gateway */') > 0
       AND row_security_active(relation)
       AND EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = relation AND c.relkind = 'r'
                   AND NOT c.relhastriggers AND NOT c.relhasrules AND c.relchecks = 0)
       AND NOT EXISTS (SELECT FROM pg_catalog.pg_attribute a
                       WHERE a.attrelid = relation AND a.attgenerated <> '' AND NOT a.attisdropped) THEN
        outcome := 'forbidden';
    END IF;
    RETURN outcome;
END
$$;

-- From here on constraints are checked at once that would be checked at the end of the transaction: then it
-- is known which row it was. A trigger can put that off again, so what stands for one row ends with this, too.
-- Every statement about messages does: at the commit, nothing bounds how long it waits for what somebody else has
-- locked, and with it all that share the commit.
CREATE FUNCTION pgmq_gateway.check_at_once()
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    me name := current_user;
    my_role text := current_setting('role');
    my_session name := session_user;
BEGIN
    EXECUTE '/* pgmq_gateway */ SET CONSTRAINTS ALL IMMEDIATE';
    -- As in move_rows.
    IF current_user <> me THEN
        PERFORM CASE WHEN session_user <> my_session
                     THEN set_config('session_authorization', my_session, true) END,
                set_config('role', my_role, true);
    END IF;
END
$$;

-- A table with its partitions, and the tables that inherit from it: what is done to its rows is done to theirs.
CREATE FUNCTION pgmq_gateway.with_descendants(relation regclass)
RETURNS SETOF oid LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN QUERY WITH RECURSIVE tables AS (
        SELECT relation::oid AS relid
        UNION
        SELECT i.inhrelid FROM tables t JOIN pg_catalog.pg_inherits i ON i.inhparent = t.relid
    ) SELECT t.relid FROM tables t;
END
$$;

-- Whether a table, or what belongs to it, has triggers that are asked before a row is updated (16) or
-- deleted (8), and may keep it as it is without a word.
CREATE FUNCTION pgmq_gateway.has_row_trigger(relation regclass, kind integer)
RETURNS boolean LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN EXISTS (
        SELECT FROM pg_catalog.pg_trigger t
        WHERE t.tgrelid IN (SELECT d FROM pgmq_gateway.with_descendants(relation) d)
          AND NOT t.tgisinternal AND t.tgenabled <> 'D'
          -- 1: for each row; 2: before.
          AND t.tgtype & 3 = 3 AND t.tgtype & kind <> 0);
END
$$;

-- Whether an id can be in a table twice, as in one that is partitioned by time, which has no primary key; and the role
-- may see where a row stands, by which those of an id are told apart. An index of a table is none of those that
-- inherit from it.
CREATE FUNCTION pgmq_gateway.repeats_ids(relation regclass)
RETURNS boolean LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN NOT EXISTS (
        SELECT FROM pg_catalog.pg_index i, pg_catalog.pg_attribute a, pg_catalog.pg_class c
        WHERE i.indrelid = relation AND i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indnkeyatts = 1
          AND a.attrelid = i.indrelid AND a.attnum = i.indkey[0] AND a.attname = 'msg_id'
          AND c.oid = i.indrelid AND NOT (c.relkind = 'r' AND c.relhassubclass)
    ) AND has_column_privilege(relation, 'ctid', 'SELECT');
END
$$;

-- Where a row `q` stands, which tells it from others of its id for as long as it is locked.
CREATE FUNCTION pgmq_gateway.place_of_row()
RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT '(q.tableoid::text || q.ctid::text)'
$$;

-- The condition that a row `q` stands at one of these places; none without any.
CREATE FUNCTION pgmq_gateway.stands_at(places text[])
RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN places IS NULL THEN 'true'
                ELSE format('%s = ANY (%L::text[])', pgmq_gateway.place_of_row(), places) END
$$;

-- The condition that a row `m` is the one that this finds first among rows `q`, and locks.
CREATE FUNCTION pgmq_gateway.is_first_of(rows_from text)
RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT format('(m.tableoid, m.ctid) = (SELECT q.tableoid, q.ctid %s LIMIT 1 FOR UPDATE SKIP LOCKED)', rows_from)
$$;

-- How rows are locked that are to be deleted. Where policies are in force they are not: a lock takes a policy
-- for updates, which a delete does not.
CREATE FUNCTION pgmq_gateway.row_lock(relation regclass)
RETURNS text LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN CASE WHEN row_security_active(relation) THEN '' ELSE 'FOR UPDATE SKIP LOCKED' END;
END
$$;

-- Whether text can be sent to the gateway, which takes UTF-8 alone: in databases of other encodings,
-- SQL_ASCII above all, people store what is none.
CREATE FUNCTION pgmq_gateway.is_text(content text)
RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT pg_catalog.getdatabaseencoding() = 'UTF8' OR pgmq_gateway.is_convertible(content)
$$;

CREATE FUNCTION pgmq_gateway.is_convertible(content text)
RETURNS boolean LANGUAGE plpgsql STABLE AS $$
BEGIN
    PERFORM pg_catalog.convert_to(content, 'UTF8');
    RETURN true;
EXCEPTION WHEN character_not_in_repertoire OR untranslatable_character THEN
    RETURN false;
END
$$;

-- Text with a `?` for what cannot be sent.
CREATE FUNCTION pgmq_gateway.as_text(content text)
RETURNS text LANGUAGE sql STABLE AS $$
    SELECT CASE WHEN pgmq_gateway.is_text(content) THEN content
           ELSE pg_catalog.regexp_replace(content, '[^\x01-\x7f]', '?', 'g') END
$$;

-- Whether a name in pgmq.meta can be that of a queue: PGMQ makes no table of others, and nobody can ask for
-- them.
CREATE FUNCTION pgmq_gateway.is_name(queue_name text)
RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT pgmq_gateway.is_text(queue_name) AND queue_name !~ '[$;'']|--'
$$;
