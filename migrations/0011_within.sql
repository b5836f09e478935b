-- What a caller may not send to is left out, in the same transaction that sends.

-- Stores messages in every queue with a binding that the routing key matches, once in each. `within` is
-- a regular expression for the names of queues that the caller may send to; null is all of them.
CREATE FUNCTION pgmq_gateway.publish(
    routing_key text, messages jsonb, operation integer, within text
) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    deliveries jsonb := '[]';
    target text;
BEGIN
    FOR target IN SELECT r.queue FROM pgmq_gateway.route(routing_key) r
                  WHERE within IS NULL OR r.queue ~ within LOOP
        deliveries := deliveries || (
            SELECT jsonb_agg(jsonb_build_object('queue', target, 'msg_id', s.id) ORDER BY s.id)
            FROM unnest(pgmq_gateway.store(target, messages, operation)) s (id));
    END LOOP;
    RETURN deliveries;
END
$$;

-- As before, with that.
CREATE OR REPLACE FUNCTION pgmq_gateway.transact(
    operations jsonb, key_scope text, key_text text, request_fingerprint bytea, only_queue text,
    lifetime_seconds integer, OUT outcome text, OUT results jsonb
) LANGUAGE plpgsql AS $$
DECLARE
    operation jsonb;
    place integer := 0;
    claimed record;
BEGIN
    IF key_text IS NOT NULL THEN
        SELECT * INTO claimed FROM pgmq_gateway.claim(
            key_scope, key_text, request_fingerprint,
            CASE WHEN only_queue IS NULL THEN 0
                 ELSE pgmq_gateway.queue_table(only_queue)::oid END, lifetime_seconds);
        IF claimed.conflict OR claimed.answer IS NOT NULL THEN
            outcome := CASE WHEN claimed.conflict THEN 'conflict' ELSE 'replayed' END;
            results := claimed.answer;
            RETURN;
        END IF;
    END IF;
    -- In the same order for everyone, so that two transactions don't wait for each other.
    PERFORM pgmq_gateway.send_in_turn(f.queue) FROM (
        SELECT DISTINCT e ->> 'queue' AS queue FROM jsonb_array_elements(operations) e
        WHERE CASE WHEN e ->> 'action' = 'send'
                   THEN pgmq_gateway.has_fifo_index(e ->> 'queue') ELSE false END
        ORDER BY 1) f;
    results := '[]';
    FOR operation IN SELECT e FROM jsonb_array_elements(operations) WITH ORDINALITY AS o (e, n)
                     ORDER BY o.n
    LOOP
        results := results || jsonb_build_array(CASE operation ->> 'action'
            WHEN 'send' THEN jsonb_build_object('msg_ids', pgmq_gateway.store(
                operation ->> 'queue', operation -> 'messages', place))
            WHEN 'publish' THEN jsonb_build_object('deliveries', pgmq_gateway.publish(
                operation ->> 'routing_key', operation -> 'messages', place,
                operation ->> 'within'))
            ELSE pgmq_gateway.settle_one(operation, place)
        END);
        place := place + 1;
    END LOOP;
    outcome := 'done';
    UPDATE pgmq_gateway.idempotency_keys k SET answer = results
    WHERE k.scope = key_scope AND k.key = key_text;
END
$$;
