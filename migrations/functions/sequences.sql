-- The sequences of ids, which lag behind their tables after some restores and failovers.

-- Whether a constraint that refused a row is about the ids of a queue's table or of its archive.
CREATE FUNCTION pgmq_gateway.is_about_ids(relation regclass, archive regclass, violated text)
RETURNS boolean LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN EXISTS (
        SELECT FROM pg_catalog.pg_class c
        JOIN pg_catalog.pg_index i ON i.indexrelid = c.oid
        JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
        WHERE c.relname = violated AND i.indisunique AND i.indnkeyatts = 1 AND a.attname = 'msg_id'
          AND (i.indrelid IN (relation, archive)
               OR i.indrelid IN (SELECT p.relid FROM pg_partition_tree(relation) p)));
END
$$;

-- The id in a table that is the furthest in the direction of a sequence. What stands so near to the end of
-- all ids that nothing would be left behind it is passed over.
CREATE FUNCTION pgmq_gateway.furthest_id(relation regclass, ascending boolean, first bigint, last bigint)
RETURNS bigint LANGUAGE plpgsql STABLE AS $$
DECLARE
    furthest bigint;
    margin bigint := least(1000000000, (last::numeric - first) / 1000)::bigint;
BEGIN
    EXECUTE format(CASE WHEN ascending THEN 'SELECT max(q.msg_id) FROM %s q WHERE q.msg_id <= $1'
                        ELSE 'SELECT min(q.msg_id) FROM %s q WHERE q.msg_id >= $1' END, relation)
    INTO furthest USING CASE WHEN ascending THEN last - margin ELSE first + margin END;
    RETURN furthest;
END
$$;

-- Has the session forget the ids that it took in advance (CACHE) where the last one that it used is not beyond the
-- `furthest` in the tables, as after a restore; says whether. Those that it has taken would meet what is there.
CREATE FUNCTION pgmq_gateway.forget_ids(sequence regclass, ascending boolean, furthest bigint)
RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    IF currval(sequence) = furthest OR (currval(sequence) < furthest) = ascending THEN
        DISCARD SEQUENCES;
        RETURN true;
    END IF;
    RETURN false;
EXCEPTION WHEN object_not_in_prerequisite_state THEN
    -- It has taken none.
    RETURN false;
END
$$;

-- Brings the sequence of a queue's ids up to the ids that are in its tables, if it lags behind them, or what this
-- session took from it does.
-- `violated` is the constraint that refused an id, if one did. Returns `none` if there is nothing to do,
-- `advanced`, `partly` if there is more to do, `forbidden` if the role lacks the right, or `exhausted`.
-- Senders go on meanwhile, so it is never set back.
CREATE FUNCTION pgmq_gateway.advance_sequence(queue text, violated text)
RETURNS text LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '100ms' AS $$
DECLARE
    relation regclass := pgmq_gateway.queue_table(queue);
    archive regclass := to_regclass(format('pgmq.%I', pgmq.format_table_name(queue, 'a')));
    sequence regclass := pg_get_serial_sequence(
        format('pgmq.%I', pgmq.format_table_name(queue, 'q')), 'msg_id');
    numbers record;
    ascending boolean;
    last bigint;
    furthest bigint;
    steps bigint;
    has_forgotten boolean := false;
BEGIN
    IF sequence IS NULL
       OR violated IS NOT NULL AND NOT pgmq_gateway.is_about_ids(relation, archive, violated) THEN
        RETURN 'none';
    END IF;
    IF NOT has_sequence_privilege(sequence, 'USAGE, SELECT')
       OR NOT has_column_privilege(relation, 'msg_id', 'SELECT') THEN
        RETURN CASE WHEN violated IS NULL THEN 'none' ELSE 'forbidden' END;
    END IF;
    SELECT s.seqincrement, s.seqmin, s.seqmax, s.seqcache INTO numbers
    FROM pg_catalog.pg_sequence s WHERE s.seqrelid = sequence;
    ascending := numbers.seqincrement > 0;
    last := pg_sequence_last_value(sequence);
    IF last = (CASE WHEN ascending THEN numbers.seqmax ELSE numbers.seqmin END) THEN
        RETURN CASE WHEN violated IS NULL THEN 'none' ELSE 'exhausted' END;
    END IF;
    IF row_security_active(relation) THEN
        -- What policies hide is not seen, but met.
        steps := CASE WHEN violated IS NULL THEN 0 ELSE 10000 END;
    ELSE
        furthest := pgmq_gateway.furthest_id(relation, ascending, numbers.seqmin, numbers.seqmax);
        IF pgmq_gateway.is_whole_table(archive) AND has_column_privilege(archive, 'msg_id', 'SELECT') THEN
            furthest := CASE WHEN ascending THEN greatest(furthest, pgmq_gateway.furthest_id(
                                 archive, true, numbers.seqmin, numbers.seqmax))
                             ELSE least(furthest, pgmq_gateway.furthest_id(
                                 archive, false, numbers.seqmin, numbers.seqmax)) END;
        END IF;
        IF numbers.seqcache > 1 THEN
            has_forgotten := pgmq_gateway.forget_ids(sequence, ascending, furthest);
        END IF;
        last := coalesce(last, CASE WHEN ascending THEN numbers.seqmin ELSE numbers.seqmax END
                               - numbers.seqincrement);
        steps := ceil((furthest::numeric - last) / numbers.seqincrement);
    END IF;
    IF coalesce(steps, 0) <= 0 THEN
        RETURN CASE WHEN has_forgotten THEN 'advanced' ELSE 'none' END;
    ELSIF furthest = (CASE WHEN ascending THEN numbers.seqmax ELSE numbers.seqmin END) THEN
        -- One that begins again from there meets what is there.
        RETURN CASE WHEN violated IS NULL THEN 'none' ELSE 'exhausted' END;
    ELSIF has_sequence_privilege(sequence, 'UPDATE') AND furthest IS NOT NULL THEN
        PERFORM setval(sequence, CASE WHEN ascending
            THEN greatest(furthest, pg_sequence_last_value(sequence))
            ELSE least(furthest, pg_sequence_last_value(sequence)) END);
        RETURN 'advanced';
    ELSIF steps > 20000000 OR NOT has_sequence_privilege(sequence, 'USAGE') THEN
        RETURN CASE WHEN violated IS NULL THEN 'none' ELSE 'forbidden' END;
    END IF;
    -- Who may only take ids takes those that are in use.
    PERFORM nextval(sequence) FROM generate_series(1, least(steps, 1000000));
    RETURN CASE WHEN steps > 1000000 THEN 'partly' ELSE 'advanced' END;
EXCEPTION WHEN lock_not_available THEN
    RETURN 'none';
END
$$;

-- What an administrator runs where the role may not advance the sequence of a queue's ids.
CREATE FUNCTION pgmq_gateway.sequence_remedy(queue text)
RETURNS text LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms' AS $$
BEGIN
    RETURN format('SELECT setval(pg_get_serial_sequence(%L, ''msg_id''), max(msg_id)) FROM %1$s',
                  pgmq_gateway.find_queue_table(queue));
END
$$;
