-- Queues that are made in one transaction have one moment, and had one identity between them. One that was told apart
-- from others since goes by the moment that it had before, too: receipts and idempotency keys of then have it.
ALTER TABLE pgmq_gateway.queue_settings ADD COLUMN former_created_at timestamptz;
-- Whether another queue has a moment is asked for every new one.
CREATE INDEX queue_settings_created_at ON pgmq_gateway.queue_settings (queue_created_at);
CREATE INDEX queue_settings_former ON pgmq_gateway.queue_settings (former_created_at)
    WHERE former_created_at IS NOT NULL;
