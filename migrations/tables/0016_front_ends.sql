-- What is kept of a queue for front ends whose queues have more to them than PGMQ's: SQS has attributes and
-- tags, and names that are longer. A row counts for the queue whose pgmq_gateway.queue_id it has.
CREATE TABLE pgmq_gateway.queue_attributes (
    queue_name text PRIMARY KEY,
    queue_id bigint NOT NULL,
    -- What clients of SQS call it.
    alias text NOT NULL,
    attributes jsonb NOT NULL DEFAULT '{}',
    tags jsonb NOT NULL DEFAULT '{}',
    modified_at timestamptz NOT NULL DEFAULT now(),
    purged_at timestamptz
);

-- The messages of the last minutes that were sent with the header `x-deduplication-id` to a queue that is read
-- in groups: the same id is not stored again.
CREATE TABLE pgmq_gateway.deduplication_ids (
    queue_id bigint,
    key text,
    msg_id bigint NOT NULL,
    -- As the sender was told, from the header `x-message-id`.
    message_id text,
    sent_at timestamptz NOT NULL,
    PRIMARY KEY (queue_id, key)
);
CREATE INDEX deduplication_ids_sent_at ON pgmq_gateway.deduplication_ids (sent_at);

-- Dead letters on their way back, some at a time; kept for a while when it is over.
CREATE TABLE pgmq_gateway.move_tasks (
    id text PRIMARY KEY,
    source text NOT NULL,
    -- Each message goes where it came from if there is none.
    destination text,
    max_per_second integer,
    status text NOT NULL DEFAULT 'RUNNING',
    moved bigint NOT NULL DEFAULT 0,
    to_move bigint NOT NULL,
    failure text,
    started_at timestamptz NOT NULL DEFAULT now(),
    -- Until when the gateway that is at it has it for itself.
    claimed_until timestamptz NOT NULL DEFAULT '-infinity'
);
CREATE UNIQUE INDEX move_tasks_running ON pgmq_gateway.move_tasks (source) WHERE status = 'RUNNING';
CREATE INDEX move_tasks_source ON pgmq_gateway.move_tasks (source, started_at);

-- What the secrets of access keys are derived from, where no file is configured for that. No role but the owner
-- reads it: see `migrate --grant-to`.
CREATE TABLE pgmq_gateway.master_key (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    value bytea NOT NULL
);
INSERT INTO pgmq_gateway.master_key (value) VALUES (pg_catalog.decode(
    pg_catalog.replace(pg_catalog.gen_random_uuid()::text || pg_catalog.gen_random_uuid()::text
                       || pg_catalog.gen_random_uuid()::text, '-', ''), 'hex'));

-- As with the key of receipts, what a restore of data brings takes the place of what is there.
CREATE FUNCTION pgmq_gateway.take_restored_master_key() RETURNS trigger LANGUAGE plpgsql AS
    'BEGIN RETURN NEW; END';
CREATE TRIGGER take_restored BEFORE INSERT ON pgmq_gateway.master_key
    FOR EACH ROW EXECUTE FUNCTION pgmq_gateway.take_restored_master_key();
