-- What is known of tables of queues, so that a statement for many of them need not look it all up each time.

-- The tables of queues, or with `a` as `prefix` their archives, in order: null where there is none, and where it
-- is none that stores what it is given and nothing else. `is_there` tells these two apart. `shapes` has 1 for a
-- column `headers`, 2 for a column `last_read_at`, which are not of every version of PGMQ, and 4 where `read_ct` and
-- `enqueued_at` have the defaults that PGMQ gives them. `oids` and `versions` tell an entry of the catalogue from
-- any other one, earlier and later ones of the same table included.
--
-- A trigger, a policy, a rule, a check, a computed column, an index on an expression, a default that calls
-- somebody's function or a type of somebody's own can take as long as it likes. And where a queue has an id twice, it
-- takes more than that to say which message is meant.
CREATE FUNCTION pgmq_gateway.plain_tables(
    queues text[], prefix text, OUT tables text[], OUT is_there boolean[], OUT shapes integer[], OUT oids oid[],
    OUT versions text[]
) LANGUAGE plpgsql STABLE AS $$
BEGIN
    SELECT array_agg(CASE WHEN c.is_plain AND NOT a.is_costly
                              AND (prefix = 'a' OR NOT pgmq_gateway.repeats_ids(q.relation))
                              AND NOT EXISTS (SELECT FROM pg_catalog.pg_index i WHERE i.indrelid = q.relation
                                              AND (i.indexprs IS NOT NULL OR i.indpred IS NOT NULL))
                              AND NOT EXISTS (SELECT FROM pg_catalog.pg_attrdef d JOIN pg_catalog.pg_depend p
                                                ON p.classid = 'pg_catalog.pg_attrdef'::regclass
                                               AND p.objid = d.oid
                                               AND p.refclassid = 'pg_catalog.pg_proc'::regclass
                                              WHERE d.adrelid = q.relation)
                          THEN format('pgmq.%I', c.relname) END ORDER BY q.place),
           array_agg(c.relname IS NOT NULL ORDER BY q.place),
           array_agg(a.columns + CASE WHEN d.usual = 2 THEN 4 ELSE 0 END ORDER BY q.place),
           array_agg(q.relation::oid ORDER BY q.place), array_agg(c.version ORDER BY q.place)
    INTO tables, is_there, shapes, oids, versions
    FROM (
        SELECT u.place, to_regclass(format('pgmq.%I', pgmq.format_table_name(u.queue, prefix))) AS relation
        FROM unnest(queues) WITH ORDINALITY AS u (queue, place) OFFSET 0
    ) q
    -- One at a time, by an index: a database can have very many tables.
    LEFT JOIN LATERAL (
        SELECT c.relname, c.xmin::text AS version, c.relkind = 'r' AND c.relchecks = 0
                   AND NOT (c.relhastriggers OR c.relrowsecurity OR c.relhasrules OR c.relhassubclass
                            OR c.relispartition) AS is_plain
        FROM pg_catalog.pg_class c WHERE c.oid = q.relation LIMIT 1
    ) c ON true
    CROSS JOIN LATERAL (
        -- What comes with PostgreSQL has a number below 16384.
        SELECT coalesce(bool_or(a.attgenerated <> '' OR a.atttypid >= 16384), false) AS is_costly,
               coalesce(sum(CASE a.attname WHEN 'headers' THEN 1 WHEN 'last_read_at' THEN 2 ELSE 0 END), 0)::integer
                   AS columns
        FROM pg_catalog.pg_attribute a
        WHERE a.attrelid = q.relation AND a.attnum > 0 AND NOT a.attisdropped
    ) a
    CROSS JOIN LATERAL (
        -- `0` and `now()`, as the catalogue has them: to have them written out would wait for the table's lock.
        SELECT count(*) AS usual
        FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
        WHERE a.attrelid = q.relation
          AND d.adbin::text ~ CASE a.attname
              WHEN 'read_ct' THEN '^\{CONST :consttype 23 [^{]* :constvalue 4 \[ 0 0 0 0 0 0 0 0 \]\}$'
              WHEN 'enqueued_at' THEN '^\{FUNCEXPR :funcid 1299 [^{]* :args <> [^{]*\}$' END
    ) d;
END
$$;

-- What `queue_id` says of queues, in order: null where that is not written down yet.
CREATE FUNCTION pgmq_gateway.known_queue_ids(queues text[])
RETURNS bigint[] LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN ARRAY(
        SELECT k.id FROM unnest(queues) WITH ORDINALITY AS u (queue, place)
        LEFT JOIN LATERAL (
            SELECT pgmq_gateway.own_id(u.queue, s.queue_created_at) AS id
            FROM pgmq.meta m JOIN pgmq_gateway.queue_settings s
              ON s.queue_name = m.queue_name AND s.bound_created_at = m.created_at
            WHERE m.queue_name = u.queue LIMIT 1
        ) k ON true ORDER BY u.place);
END
$$;

-- The tables of queues as `plain_tables` has them, and what `known_queue_ids` says. What the caller was told a moment
-- ago it says again, and that holds while the entry of the table in the catalogue is the one of which it was said;
-- `is_new` tells what is to be remembered. What leaves that entry as it is, such as an index on an expression, is
-- seen when the caller has forgotten.
CREATE FUNCTION pgmq_gateway.known_tables(
    queues text[], INOUT oids oid[], INOUT versions text[], INOUT tables text[], INOUT shapes integer[],
    INOUT queue_ids bigint[], OUT is_there boolean[], OUT is_new boolean[]
) LANGUAGE plpgsql STABLE AS $$
DECLARE
    looked_up record;
    ids bigint[];
    unknown integer[];
    n integer;
BEGIN
    is_there := ARRAY(SELECT (SELECT c.xmin::text FROM pg_catalog.pg_class c WHERE c.oid = k.oid) = k.version
                      FROM unnest(oids, versions) WITH ORDINALITY AS k (oid, version, place) ORDER BY k.place);
    IF cardinality(is_there) = cardinality(queues) AND true = ALL (is_there) THEN
        RETURN;
    END IF;
    unknown := ARRAY(SELECT s.n FROM generate_subscripts(queues, 1) AS s (n)
                     WHERE is_there[s.n] IS NOT TRUE ORDER BY s.n);
    looked_up := pgmq_gateway.plain_tables(ARRAY(SELECT queues[u.n] FROM unnest(unknown) AS u (n)), 'q');
    ids := pgmq_gateway.known_queue_ids(ARRAY(SELECT queues[u.n] FROM unnest(unknown) AS u (n)));
    FOR i IN 1..cardinality(unknown) LOOP
        n := unknown[i];
        oids[n] := looked_up.oids[i];
        versions[n] := looked_up.versions[i];
        tables[n] := looked_up.tables[i];
        shapes[n] := looked_up.shapes[i];
        is_there[n] := looked_up.is_there[i];
        queue_ids[n] := ids[i];
        is_new[n] := tables[n] IS NOT NULL;
    END LOOP;
END
$$;

-- The statement that stores messages in the table of a queue: the bytes of $1 with those of $6 as their headers, each
-- visible at the moment of $3 or, without one, after the seconds of $2 or of $5 from now on ($4). Nothing that the
-- table would have to fill in is left to it: that is dearer than to say it.
CREATE FUNCTION pgmq_gateway.plain_insert(q_table text, shape integer, with_headers boolean)
RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    RETURN concat(
        '/* pgmq_gateway */ INSERT INTO ', q_table, ' (vt, message',
        CASE WHEN shape & 4 <> 0 THEN ', read_ct, enqueued_at' END, CASE WHEN with_headers THEN ', headers' END,
        ') SELECT pgmq_gateway.moment(n.visible_at, coalesce(n.delay, $5)), convert_from(n.message, ''UTF8'')::jsonb',
        CASE WHEN shape & 4 <> 0 THEN ', 0, $4' END,
        CASE WHEN with_headers
             THEN ', pgmq_gateway.senders_headers(convert_from(n.headers, ''UTF8'')::jsonb)' END,
        ' FROM unnest($1, $2, $3, $6) AS n (message, delay, visible_at, headers)');
END
$$;
