-- Many requests that are done once each, in one statement.
--
-- A scope, a key and a fingerprint stand for a request: the same key in the same scope is the same request if
-- the fingerprints are alike, else another one. Tables of keys may be tiny when a plan is made for them and
-- large when it is used, so plans that read them as a whole are ruled out.

-- Claims keys for this transaction, each for the first request that has it, and returns the places of those
-- requests (from 1), all of which are for the `queue`,
-- null for several. A request without a key has a null there. What is not claimed was done before, or is of
-- another request of these. Keys are taken in their own order, so that two statements don't wait for each
-- other; one that another transaction has is waited for as `lock_timeout` says.
CREATE FUNCTION pgmq_gateway.claim_idempotency_keys(
    queue text, scopes text[], keys text[], fingerprints bytea[], lifetimes integer[], key_queue_id bigint
) RETURNS integer[] LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
    claimed_places integer[];
BEGIN
    WITH wanted AS MATERIALIZED (
        SELECT DISTINCT ON (w.scope, w.key) w.scope, w.key, w.fingerprint, w.lifetime, w.place
        FROM unnest(scopes, keys, fingerprints, lifetimes) WITH ORDINALITY
             AS w (scope, key, fingerprint, lifetime, place)
        WHERE w.key IS NOT NULL ORDER BY w.scope, w.key, w.place
    ), claimed AS (
        INSERT INTO pgmq_gateway.idempotency_keys AS k (scope, key, fingerprint, queue_id)
        SELECT w.scope, w.key, w.fingerprint, key_queue_id FROM wanted w ORDER BY w.scope, w.key
        ON CONFLICT ON CONSTRAINT idempotency_keys_pkey DO UPDATE
        SET fingerprint = excluded.fingerprint, queue_id = excluded.queue_id, answer = NULL,
            created_at = excluded.created_at
        WHERE k.queue_id <> excluded.queue_id AND NOT pgmq_gateway.is_id_of(queue, k.queue_id)
           OR k.created_at < now() - (SELECT make_interval(secs => w.lifetime) FROM wanted w
                                      WHERE w.scope = excluded.scope AND w.key = excluded.key)
        RETURNING k.scope, k.key
    )
    SELECT coalesce(array_agg(w.place::integer), '{}') INTO claimed_places
    FROM claimed c JOIN wanted w ON w.scope = c.scope AND w.key = c.key;
    RETURN claimed_places;
END
$$;

-- Fails as a key does that is not written down: a trigger may drop what is written to the table of keys.
CREATE FUNCTION pgmq_gateway.refuse_key()
RETURNS bigint[] LANGUAGE plpgsql AS $$
BEGIN
    RAISE SQLSTATE 'PGW35';
END
$$;

-- Notes what was stored for requests that have claimed their keys: message `ids[i]` for the request at
-- `owners[i]`. Returns what was stored for each request, whether or not it has a key. Each key is looked up by
-- itself: a join could read the table as a whole. Raises PGW35 where one is not noted.
CREATE FUNCTION pgmq_gateway.note_stored(
    scopes text[], keys text[], owners integer[], ids bigint[]
) RETURNS TABLE (place integer, stored bigint[]) LANGUAGE plpgsql SET enable_seqscan = off AS $$
BEGIN
    RETURN QUERY
    WITH done AS MATERIALIZED (
        SELECT o.owner, array_agg(o.id ORDER BY o.n) AS ids
        FROM unnest(owners, ids) WITH ORDINALITY AS o (owner, id, n) GROUP BY o.owner
    ), noted AS (
        UPDATE pgmq_gateway.idempotency_keys k
        SET answer = jsonb_build_array(jsonb_build_object('msg_ids', f.ids))
        FROM (SELECT d.ids, l.at FROM done d, LATERAL (
                  SELECT i.ctid AS at FROM pgmq_gateway.idempotency_keys i
                  WHERE i.scope = scopes[d.owner] AND i.key = keys[d.owner] LIMIT 1) l OFFSET 0) f
        WHERE k.ctid = f.at
        RETURNING 1
    )
    SELECT d.owner, CASE WHEN (SELECT count(*) FROM noted) = (SELECT count(keys[o.owner]) FROM done o)
                         THEN d.ids ELSE pgmq_gateway.refuse_key() END
    FROM done d;
END
$$;

-- The ids in an answer to a request that stored messages; null if it makes no sense.
CREATE FUNCTION pgmq_gateway.stored_ids(answer jsonb)
RETURNS bigint[] LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    IF jsonb_typeof(answer -> 0 -> 'msg_ids') IS DISTINCT FROM 'array' OR answer -> 1 IS NOT NULL
       OR answer @? '$[0].msg_ids[*] ? (@.type() != "number" || @.floor() != @
                                        || @ < -9223372036854775808 || @ > 9223372036854775807)' THEN
        RETURN NULL;
    END IF;
    RETURN ARRAY(SELECT e::numeric::bigint
                 FROM jsonb_array_elements_text(answer -> 0 -> 'msg_ids') e);
END
$$;

-- Whether a trigger or a rule may drop what is written to the table of keys.
CREATE FUNCTION pgmq_gateway.may_drop_keys()
RETURNS boolean LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN pgmq_gateway.has_row_trigger('pgmq_gateway.idempotency_keys', 20)
        OR pgmq_gateway.has_rules('pgmq_gateway.idempotency_keys');
END
$$;

-- What became of a request before that has this key: `replayed` with what it stored, `unreadable` if that is
-- not known any more, `key_conflict` if it was another request; `locked` if its time is over in this moment,
-- `key_failed` if it cannot be written down.
CREATE FUNCTION pgmq_gateway.earlier_answer(
    key_scope text, key_text text, request_fingerprint bytea, OUT outcome text, OUT ids bigint[]
) LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
    is_other boolean;
    kept jsonb;
BEGIN
    SELECT k.fingerprint <> request_fingerprint, k.answer INTO is_other, kept
    FROM pgmq_gateway.idempotency_keys k WHERE k.scope = key_scope AND k.key = key_text;
    IF is_other THEN
        outcome := 'key_conflict';
    ELSIF is_other IS NULL THEN
        -- To try again would come to the same.
        outcome := CASE WHEN pgmq_gateway.may_drop_keys() THEN 'key_failed' ELSE 'locked' END;
    ELSE
        ids := pgmq_gateway.stored_ids(kept);
        outcome := CASE WHEN ids IS NULL THEN 'unreadable' ELSE 'replayed' END;
    END IF;
END
$$;

-- The same where the key still stands for a request to this queue; nothing otherwise.
CREATE FUNCTION pgmq_gateway.answer_in_force(
    queue text, key_scope text, key_text text, request_fingerprint bytea, lifetime integer,
    OUT outcome text, OUT ids bigint[]
) LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms' SET enable_seqscan = off AS $$
BEGIN
    PERFORM pgmq_gateway.require_own_session();
    IF EXISTS (SELECT FROM pgmq_gateway.idempotency_keys k
               WHERE k.scope = key_scope AND k.key = key_text
                 AND (k.queue_id = pgmq_gateway.queue_id(queue) OR pgmq_gateway.is_id_of(queue, k.queue_id))
                 AND k.created_at >= now() - make_interval(secs => lifetime)) THEN
        SELECT e.outcome, e.ids INTO outcome, ids
        FROM pgmq_gateway.earlier_answer(key_scope, key_text, request_fingerprint) e;
    END IF;
END
$$;

-- Whether none of these keys is known, and none stands there twice. Who claims one in this moment does not show.
CREATE FUNCTION pgmq_gateway.are_new_keys(scopes text[], keys text[])
RETURNS boolean LANGUAGE plpgsql SET enable_seqscan = off AS $$
BEGIN
    RETURN (SELECT count(w.key) = count(DISTINCT (w.scope, w.key)) FILTER (WHERE w.key IS NOT NULL)
                   AND NOT bool_or(EXISTS (SELECT FROM pgmq_gateway.idempotency_keys k
                                           WHERE k.scope = w.scope AND k.key = w.key))
            FROM unnest(scopes, keys) AS w (scope, key));
END
$$;

-- Claims keys of which none is known, and notes in the same moment what was stored for their requests, as
-- `note_stored` says it. Fails if somebody else has claimed one of them meanwhile: to ask for that with ON CONFLICT
-- would cost more than all the rest.
CREATE FUNCTION pgmq_gateway.claim_new_keys(
    scopes text[], keys text[], fingerprints bytea[], key_queue_id bigint, owners integer[], ids bigint[]
) RETURNS TABLE (place integer, stored bigint[]) LANGUAGE plpgsql AS $$
DECLARE
    answers text[];
    claimed bigint;
BEGIN
    IF cardinality(ids) = cardinality(keys) THEN
        answers := ids::text[];
        RETURN QUERY SELECT o.owner, ARRAY[o.id] FROM unnest(owners, ids) AS o (owner, id);
    ELSE
        RETURN QUERY SELECT o.owner, array_agg(o.id ORDER BY o.n)
                     FROM unnest(owners, ids) WITH ORDINALITY AS o (owner, id, n) GROUP BY o.owner;
        answers := ARRAY(SELECT string_agg(o.id::text, ',' ORDER BY o.n)
                         FROM unnest(owners, ids) WITH ORDINALITY AS o (owner, id, n)
                         GROUP BY o.owner ORDER BY o.owner);
    END IF;
    INSERT INTO pgmq_gateway.idempotency_keys (scope, key, fingerprint, queue_id, answer)
    SELECT w.scope, w.key, w.fingerprint, key_queue_id, ('[{"msg_ids":[' || w.answer || ']}]')::jsonb
    FROM unnest(scopes, keys, fingerprints, answers) AS w (scope, key, fingerprint, answer)
    WHERE w.key IS NOT NULL ORDER BY w.scope, w.key;
    GET DIAGNOSTICS claimed = ROW_COUNT;
    IF claimed <> cardinality(array_remove(keys, NULL)) THEN
        RAISE unique_violation USING TABLE = 'idempotency_keys';
    END IF;
END
$$;

-- As `send`, for several requests, of which those with a key are done once: message i is of the request at
-- `owners[i]`, counted from 1. `outcome` is `done`, or what became of the request before. Other gateways hold
-- a key for as long as a commit takes; one that is held for longer is to keep nobody else waiting.
--
-- Without `look_first` the keys, of which none may stand there twice, are taken for new ones: where one is not, what
-- was stored for all of them is undone and they are claimed one by one.
CREATE FUNCTION pgmq_gateway.send_once(
    queue text, messages jsonb[], headers jsonb[], delays integer[], visible_at timestamptz[],
    in_turn boolean, owners integer[], scopes text[], keys text[], fingerprints bytea[],
    lifetimes integer[], look_first boolean DEFAULT true
) RETURNS TABLE (place integer, ids bigint[], outcome text) LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp SET lock_timeout = '25ms' AS $$
DECLARE
    me name := current_user;
    my_role text := current_setting('role');
    my_session name := session_user;
    this_queue bigint;
    to_do integer[];
    is_partial boolean;
    new_ids bigint[];
    violated text;
BEGIN
    PERFORM pgmq_gateway.require_own_session();
    this_queue := pgmq_gateway.queue_id(queue);
    -- Mostly a key is a new one: then what it stands for is written once. Those who store in turn hold others back
    -- from then on, and are to wait for nobody's key.
    IF NOT in_turn AND (NOT look_first OR pgmq_gateway.are_new_keys(scopes, keys)) THEN
        BEGIN
            new_ids := ARRAY(SELECT s FROM pgmq_gateway.send(
                queue, messages, headers, delays, visible_at, in_turn) s);
            -- As in move_rows.
            IF current_user <> me THEN
                PERFORM CASE WHEN session_user <> my_session
                             THEN set_config('session_authorization', my_session, true) END,
                        set_config('role', my_role, true);
            END IF;
            IF current_setting('transaction_read_only') = 'on' THEN
                RAISE SQLSTATE 'PGW96';
            END IF;
            RETURN QUERY SELECT s.place, s.stored, 'done'
                         FROM pgmq_gateway.claim_new_keys(
                             scopes, keys, fingerprints, this_queue, owners, new_ids) s;
            RETURN;
        EXCEPTION WHEN unique_violation THEN
            -- Who was sooner has said by now what became of it.
            GET STACKED DIAGNOSTICS violated = TABLE_NAME;
            IF violated <> 'idempotency_keys' THEN
                RAISE;
            END IF;
        END;
    END IF;
    to_do := pgmq_gateway.claim_idempotency_keys(queue, scopes, keys, fingerprints, lifetimes, this_queue);
    is_partial := cardinality(to_do) < cardinality(keys);
    IF is_partial THEN
        -- Those without a key are always done.
        to_do := to_do || ARRAY(SELECT w.place::integer FROM unnest(keys) WITH ORDINALITY w (key, place)
                                WHERE w.key IS NULL);
        SELECT array_agg(m.message ORDER BY m.n), array_agg(m.headers ORDER BY m.n),
               array_agg(m.delay ORDER BY m.n), array_agg(m.visible_at ORDER BY m.n),
               array_agg(m.owner ORDER BY m.n)
        INTO messages, headers, delays, visible_at, owners
        FROM unnest(messages, headers, delays, visible_at, owners) WITH ORDINALITY
             AS m (message, headers, delay, visible_at, owner, n)
        WHERE m.owner = ANY (to_do);
    END IF;
    IF messages IS NOT NULL THEN
        SELECT array_agg(s.id ORDER BY s.n) INTO new_ids
        FROM pgmq_gateway.send(queue, messages, headers, delays, visible_at, in_turn)
             WITH ORDINALITY AS s (id, n);
        IF current_user <> me THEN
            PERFORM CASE WHEN session_user <> my_session
                         THEN set_config('session_authorization', my_session, true) END,
                    set_config('role', my_role, true);
        END IF;
        IF current_setting('transaction_read_only') = 'on' THEN
            RAISE SQLSTATE 'PGW96';
        END IF;
        RETURN QUERY SELECT s.place, s.stored, 'done'
                     FROM pgmq_gateway.note_stored(scopes, keys, owners, new_ids) s;
    END IF;
    IF is_partial THEN
        RETURN QUERY
        SELECT w.place::integer, e.ids, e.outcome
        FROM unnest(scopes, keys, fingerprints) WITH ORDINALITY AS w (scope, key, fingerprint, place),
             LATERAL pgmq_gateway.earlier_answer(w.scope, w.key, w.fingerprint) e
        WHERE w.place <> ALL (to_do);
    END IF;
END
$$;
