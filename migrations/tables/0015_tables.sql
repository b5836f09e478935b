-- The gateway's own tables. What a database has from the set before (versions 1 to 14) is kept.

-- Settings of queues that differ from their defaults. A row counts for the queue that was there when it
-- was written: a later queue of the same name, whoever made it, was created at another moment.
CREATE TABLE IF NOT EXISTS pgmq_gateway.queue_settings (
    queue_name text PRIMARY KEY,
    queue_created_at timestamptz NOT NULL,
    settings jsonb NOT NULL,
    -- Up to where the enforcement of message_retention has come.
    retention_cursor bigint NOT NULL DEFAULT 0
);

-- The key with which receipts are signed, the same for all gateways on this database. The random
-- numbers are PostgreSQL's strong ones.
CREATE TABLE IF NOT EXISTS pgmq_gateway.secret (name text PRIMARY KEY, value bytea NOT NULL);
INSERT INTO pgmq_gateway.secret (name, value) VALUES ('receipts', pg_catalog.decode(
    pg_catalog.replace(pg_catalog.gen_random_uuid()::text || pg_catalog.gen_random_uuid()::text
                       || pg_catalog.gen_random_uuid()::text, '-', ''), 'hex'))
ON CONFLICT DO NOTHING;

-- What was answered to requests with an Idempotency-Key. `relation` is the table of the queue, so
-- that what was stored in a queue that is gone is not taken for stored in its successor.
CREATE TABLE IF NOT EXISTS pgmq_gateway.idempotency_keys (
    scope text,
    key text,
    fingerprint bytea NOT NULL,
    relation oid NOT NULL,
    answer jsonb,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (scope, key)
);
CREATE INDEX IF NOT EXISTS idempotency_keys_created_at
    ON pgmq_gateway.idempotency_keys (created_at);

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
