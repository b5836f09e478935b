-- Keys with which clients are let in. Of a key only its hash is kept.
CREATE TABLE pgmq_gateway.api_keys (
    id text PRIMARY KEY,
    name text NOT NULL,
    hash bytea NOT NULL,
    -- The hash before the last rotation, and until when that one is taken too.
    previous_hash bytea,
    previous_until timestamptz,
    -- Each as `send,receive:orders*`.
    grants text[] NOT NULL,
    requests_per_second integer,
    max_waiters integer,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz,
    revoked_at timestamptz,
    -- By the minute or so.
    last_used_at timestamptz
);

-- As before, for a caller that may not send to every queue: `allowed` is a regular expression for the
-- names of those that it may, and what came from another one stays.
CREATE FUNCTION pgmq_gateway.redrive_within(
    queue text, after_msg_id bigint, max_messages integer, allowed text,
    OUT moved integer, OUT last_id bigint
) LANGUAGE plpgsql AS $$
DECLARE
    source regclass := pgmq_gateway.queue_table(queue);
    looked_at bigint[] := '{}';
    batch record;
BEGIN
    moved := 0;
    IF NOT pgmq_gateway.has_column(source, 'headers') THEN
        RAISE EXCEPTION 'a redrive without `to` needs PGMQ 1.5.0 or later' USING ERRCODE = 'PGW01';
    END IF;
    FOR batch IN EXECUTE format(
        'SELECT c.origin, array_agg(c.msg_id) AS ids FROM (
            SELECT m.headers ->> ''x-dead-letter-queue'' AS origin, m.msg_id FROM %s m
            WHERE m.msg_id > $1 AND m.vt <= statement_timestamp()
            ORDER BY m.msg_id LIMIT $2 FOR UPDATE SKIP LOCKED) c
         GROUP BY c.origin ORDER BY c.origin', source
    ) USING after_msg_id, max_messages LOOP
        looked_at := looked_at || batch.ids;
        IF batch.origin <> queue AND batch.origin ~ allowed
           AND EXISTS (SELECT FROM pgmq.meta m WHERE m.queue_name = batch.origin) THEN
            moved := moved + pgmq_gateway.move_back(source, batch.origin, batch.ids);
        END IF;
    END LOOP;
    IF cardinality(looked_at) = max_messages THEN
        last_id := (SELECT max(id) FROM unnest(looked_at) AS l (id));
    END IF;
END
$$;
