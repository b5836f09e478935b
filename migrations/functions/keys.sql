-- API keys, as a gateway looks at them while it serves: neither waits for who has locked some.

-- Whether a key can let anybody in, whatever its end: it cannot where its hash is none, a limit lets nothing
-- through, or there is what cannot be sent. Whether its grants can be read is for the gateway to say.
CREATE FUNCTION pgmq_gateway.key_makes_sense(
    id text, name text, hash bytea, grants text[], requests_per_second integer, max_waiters integer
) RETURNS boolean LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT pgmq_gateway.is_text(id || name || pg_catalog.array_to_string(grants, ' '))
           AND pg_catalog.octet_length(hash) = 32 AND coalesce(pg_catalog.array_ndims(grants), 1) = 1
           AND coalesce(requests_per_second, 1) > 0 AND coalesce(max_waiters, 0) >= 0
$$;

-- The keys as a gateway loads them. An end at infinity, which is how SQL says never, is none.
CREATE FUNCTION pgmq_gateway.loaded_keys()
RETURNS TABLE (
    id text, name text, hash bytea, previous_hash bytea, previous_until timestamptz, grants text[],
    requests_per_second integer, max_waiters integer, expires_at timestamptz, revoked boolean,
    makes_sense boolean, now timestamptz
) LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms' AS $$
BEGIN
    RETURN QUERY
    SELECT pgmq_gateway.as_text(k.id), CASE WHEN c.sendable THEN k.name ELSE '' END, k.hash,
           k.previous_hash, k.previous_until,
           CASE WHEN c.sendable THEN k.grants ELSE '{}' END, k.requests_per_second, k.max_waiters,
           nullif(k.expires_at, 'infinity'), k.revoked_at IS NOT NULL,
           pgmq_gateway.key_makes_sense(k.id, k.name, k.hash, k.grants, k.requests_per_second, k.max_waiters),
           clock_timestamp()
    FROM pgmq_gateway.api_keys k,
         LATERAL (SELECT pgmq_gateway.is_text(k.id || k.name || array_to_string(k.grants, ' '))
                  AS sendable) c;
END
$$;

-- Notes how many seconds ago keys were used, but for those that somebody is about to change.
CREATE FUNCTION pgmq_gateway.note_used_keys(ids text[], ages bigint[])
RETURNS void LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms' AS $$
BEGIN
    UPDATE pgmq_gateway.api_keys k SET last_used_at = now() - make_interval(secs => used.age)
    FROM unnest(ids, ages) AS used (id, age)
    WHERE k.id = used.id AND k.ctid = ANY (ARRAY(
        SELECT n.ctid FROM pgmq_gateway.api_keys n WHERE n.id = ANY (ids)
        FOR NO KEY UPDATE SKIP LOCKED));
END
$$;
