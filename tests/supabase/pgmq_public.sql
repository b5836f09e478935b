-- The functions of Supabase Queues as the platform defines them, for the tests to compare with.
CREATE SCHEMA pgmq_public;

CREATE FUNCTION pgmq_public.pop(queue_name text) RETURNS SETOF pgmq.message_record
LANGUAGE plpgsql SET search_path = '' AS $$
BEGIN
  RETURN QUERY SELECT * FROM pgmq.pop(queue_name := queue_name);
END $$;

CREATE FUNCTION pgmq_public.send(queue_name text, message jsonb, sleep_seconds integer DEFAULT 0)
RETURNS SETOF bigint LANGUAGE plpgsql SET search_path = '' AS $$
BEGIN
  RETURN QUERY SELECT * FROM pgmq.send(queue_name := queue_name, msg := message, delay := sleep_seconds);
END $$;

CREATE FUNCTION pgmq_public.send_batch(queue_name text, messages jsonb[], sleep_seconds integer DEFAULT 0)
RETURNS SETOF bigint LANGUAGE plpgsql SET search_path = '' AS $$
BEGIN
  RETURN QUERY
  SELECT * FROM pgmq.send_batch(queue_name := queue_name, msgs := messages, delay := sleep_seconds);
END $$;

CREATE FUNCTION pgmq_public.archive(queue_name text, message_id bigint) RETURNS boolean
LANGUAGE plpgsql SET search_path = '' AS $$
BEGIN
  RETURN pgmq.archive(queue_name := queue_name, msg_id := message_id);
END $$;

CREATE FUNCTION pgmq_public.delete(queue_name text, message_id bigint) RETURNS boolean
LANGUAGE plpgsql SET search_path = '' AS $$
BEGIN
  RETURN pgmq.delete(queue_name := queue_name, msg_id := message_id);
END $$;

CREATE FUNCTION pgmq_public.read(queue_name text, sleep_seconds integer, n integer)
RETURNS SETOF pgmq.message_record LANGUAGE plpgsql SET search_path = '' AS $$
BEGIN
  RETURN QUERY SELECT * FROM pgmq.read(queue_name := queue_name, vt := sleep_seconds, qty := n);
END $$;
