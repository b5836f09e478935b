-- The gateway's own tables. What a database has from the set before (versions 1 to 14) is kept.

-- A row for each queue that the gateway has seen: which one it is, and its settings as far as they differ
-- from the defaults. Everything in it is carried by a dump.
CREATE TABLE IF NOT EXISTS pgmq_gateway.queue_settings (
    queue_name text PRIMARY KEY,
    queue_created_at timestamptz NOT NULL,
    settings jsonb NOT NULL,
    -- Up to where the enforcement of message_retention has come.
    retention_cursor bigint NOT NULL DEFAULT 0
);
-- When the queue was made that the row counts for, as this database has it. `queue_created_at` is the same,
-- as the database had it in which the queue was first seen: it is what identifies the queue.
ALTER TABLE pgmq_gateway.queue_settings ADD COLUMN IF NOT EXISTS bound_created_at timestamptz;
-- The database in which `bound_created_at` was written. In a copy made by dump and restore, where a queue of
-- the name may have been made at another moment, the row counts for that one.
ALTER TABLE pgmq_gateway.queue_settings ADD COLUMN IF NOT EXISTS database_stamp text;
-- Whether it was made to be read in groups.
ALTER TABLE pgmq_gateway.queue_settings ADD COLUMN IF NOT EXISTS fifo boolean NOT NULL DEFAULT false;
UPDATE pgmq_gateway.queue_settings s
SET bound_created_at = s.queue_created_at,
    database_stamp = pg_catalog.format(
        '%s/%s', (SELECT c.system_identifier FROM pg_catalog.pg_control_system() c),
        (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())),
    fifo = EXISTS (
        SELECT FROM pg_catalog.pg_index i
        WHERE i.indrelid = pg_catalog.to_regclass(pg_catalog.format(
                  'pgmq.%I', pg_catalog.lower('q_' || s.queue_name)))
          AND i.indexrelid = pg_catalog.to_regclass(pg_catalog.format(
                  'pgmq.%I', pg_catalog.lower('q_' || s.queue_name) || '_gw_fifo_idx')))
WHERE s.bound_created_at IS NULL;
ALTER TABLE pgmq_gateway.queue_settings
    ALTER COLUMN bound_created_at SET NOT NULL, ALTER COLUMN database_stamp SET NOT NULL;

-- Since when there is no queue of the name, if there is none.
ALTER TABLE pgmq_gateway.queue_settings ADD COLUMN IF NOT EXISTS missing_since timestamptz;

-- The key with which receipts are signed, the same for all gateways on this database. The random
-- numbers are PostgreSQL's strong ones.
CREATE TABLE IF NOT EXISTS pgmq_gateway.secret (name text PRIMARY KEY, value bytea NOT NULL);
INSERT INTO pgmq_gateway.secret (name, value) VALUES ('receipts', pg_catalog.decode(
    pg_catalog.replace(pg_catalog.gen_random_uuid()::text || pg_catalog.gen_random_uuid()::text
                       || pg_catalog.gen_random_uuid()::text, '-', ''), 'hex'))
ON CONFLICT DO NOTHING;

-- What was answered to requests with an Idempotency-Key.
CREATE TABLE IF NOT EXISTS pgmq_gateway.idempotency_keys (
    scope text,
    key text,
    fingerprint bytea NOT NULL,
    answer jsonb,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (scope, key)
);
CREATE INDEX IF NOT EXISTS idempotency_keys_created_at
    ON pgmq_gateway.idempotency_keys (created_at);
-- Which queue it was about (pgmq_gateway.queue_id), 0 for several.
ALTER TABLE pgmq_gateway.idempotency_keys ADD COLUMN IF NOT EXISTS queue_id bigint;
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_catalog.pg_attribute a
               WHERE a.attrelid = 'pgmq_gateway.idempotency_keys'::regclass
                 AND a.attname = 'relation' AND NOT a.attisdropped) THEN
        UPDATE pgmq_gateway.idempotency_keys k
        SET queue_id = CASE k.relation WHEN 0 THEN 0 ELSE coalesce(
            (SELECT (extract(epoch FROM least(m.created_at, '290000-01-01 00:00:00+00')) * 1000000)::bigint
             FROM pgmq.meta m
             WHERE pg_catalog.isfinite(m.created_at) AND pg_catalog.to_regclass(pg_catalog.format(
                 'pgmq.%I', pg_catalog.lower('q_' || m.queue_name))) = k.relation LIMIT 1), -1) END;
        ALTER TABLE pgmq_gateway.idempotency_keys DROP COLUMN relation;
    END IF;
END
$$;
ALTER TABLE pgmq_gateway.idempotency_keys ALTER COLUMN queue_id SET NOT NULL;

-- API keys. Of a key only its hash is kept.
CREATE TABLE IF NOT EXISTS pgmq_gateway.api_keys (
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

-- Which set of functions is in force.
CREATE TABLE IF NOT EXISTS pgmq_gateway.functions_in_force (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    revision integer NOT NULL,
    hash text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
);

-- What a restore of data brings takes the place of what is there; the functions proper come with the others.
CREATE FUNCTION pgmq_gateway.take_restored_settings() RETURNS trigger LANGUAGE plpgsql AS
    'BEGIN RETURN NEW; END';
CREATE FUNCTION pgmq_gateway.take_restored_secret() RETURNS trigger LANGUAGE plpgsql AS
    'BEGIN RETURN NEW; END';
CREATE TRIGGER take_restored BEFORE INSERT ON pgmq_gateway.queue_settings
    FOR EACH ROW EXECUTE FUNCTION pgmq_gateway.take_restored_settings();
CREATE TRIGGER take_restored BEFORE INSERT ON pgmq_gateway.secret
    FOR EACH ROW EXECUTE FUNCTION pgmq_gateway.take_restored_secret();
