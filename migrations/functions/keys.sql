-- API keys, as a gateway looks at them while it serves: neither waits for who has locked some.

-- All keys.
CREATE FUNCTION pgmq_gateway.stored_keys()
RETURNS TABLE (
    id text, name text, hash bytea, previous_hash bytea, previous_until timestamptz, grants text[],
    requests_per_second integer, max_waiters integer, expires_at timestamptz, revoked_at timestamptz
) LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms' AS $$
BEGIN
    RETURN QUERY SELECT k.id, k.name, k.hash, k.previous_hash, k.previous_until, k.grants,
                        k.requests_per_second, k.max_waiters, k.expires_at, k.revoked_at
                 FROM pgmq_gateway.api_keys k;
END
$$;

-- Notes when keys were used, but for those that somebody is about to change.
CREATE FUNCTION pgmq_gateway.note_used_keys(ids text[], used_at timestamptz[])
RETURNS void LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms' AS $$
BEGIN
    UPDATE pgmq_gateway.api_keys k SET last_used_at = used.at
    FROM unnest(ids, used_at) AS used (id, at)
    WHERE k.id = used.id AND k.ctid = ANY (ARRAY(
        SELECT n.ctid FROM pgmq_gateway.api_keys n WHERE n.id = ANY (ids)
        FOR NO KEY UPDATE SKIP LOCKED));
END
$$;
