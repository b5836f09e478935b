-- Sessions that are as they were when they were opened. What a trigger sets without LOCAL outlives it: whoever has
-- the connection next would be given something else than was asked for, such as text in another encoding.

-- Whether a session is not as it was. PostgreSQL puts this in the place of a call, in a condition.
CREATE FUNCTION pgmq_gateway.session_has_changed()
RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT current_setting('pgmq_gateway.session_1', true) <> concat_ws(
               ' ', current_user, session_user, current_setting('client_encoding'), current_setting('DateStyle'),
               current_setting('TimeZone'), current_setting('IntervalStyle'), current_setting('bytea_output'),
               current_setting('extra_float_digits'), current_setting('standard_conforming_strings'),
               current_setting('default_transaction_read_only'),
               current_setting('default_transaction_isolation'), current_setting('session_replication_role'),
               current_setting('synchronous_commit'), current_setting('row_security'))
       AND pg_current_xact_id_if_assigned() IS NULL
$$;

-- Refuses with PGW97 to work in a session that is not as it was: the gateway closes it, and does the work in
-- another one. Sessions behind a pooler, which are everybody's, have nothing to compare with. The settings are those
-- of `KEPT` in the gateway; with other ones, the name of what has them must be another.
--
-- In a statement that has changed something it is its own triggers that did it, and it goes on. So this comes first:
-- `queue_id`, too, may write something down.
CREATE FUNCTION pgmq_gateway.require_own_session()
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF pgmq_gateway.session_has_changed() THEN
        RAISE EXCEPTION 'something has changed the session' USING ERRCODE = 'PGW97';
    END IF;
END
$$;

-- What a statement answers is sent in UTF-8, though a trigger that it set off has chosen another encoding.
CREATE FUNCTION pgmq_gateway.answer_in_utf8()
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF current_setting('client_encoding') <> 'UTF8' THEN
        PERFORM set_config('client_encoding', 'UTF8', true);
    END IF;
END
$$;
