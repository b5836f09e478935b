-- Tasks that move dead letters, which whatever gateway has time works on.

-- Whether a task that began at this moment is one of the queue that has this id (see `queue_id`), and not of an
-- earlier one of its name: the id is the moment when the queue was made.
CREATE FUNCTION pgmq_gateway.is_task_of(began timestamptz, this_queue bigint)
RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT pgmq_gateway.queue_id_of(began) >= this_queue
$$;

-- Begins to move the dead letters of a queue. False if they are on their way already. Raises PGW35 where it is not
-- stored that they are to be.
CREATE FUNCTION pgmq_gateway.start_move_task(
    new_id text, source_queue text, destination_queue text, per_second integer, count_to_move bigint
) RETURNS boolean LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp SET lock_timeout = '250ms' AS $$
DECLARE
    this_queue bigint := pgmq_gateway.queue_id(source_queue);
BEGIN
    -- One of an earlier queue of this name is over.
    UPDATE pgmq_gateway.move_tasks t SET status = 'FAILED', failure = 'queue_not_found'
    WHERE t.source = source_queue AND t.status = 'RUNNING'
      AND NOT pgmq_gateway.is_task_of(t.started_at, this_queue);
    -- Twice: the one that was in the way may have ended before it is looked for.
    FOR attempt IN 1..2 LOOP
        INSERT INTO pgmq_gateway.move_tasks (id, source, destination, max_per_second, to_move, started_at)
        VALUES (new_id, source_queue, destination_queue, per_second, count_to_move,
                -- After a failover the clock may go wrong.
                greatest(clock_timestamp(), 'epoch'::timestamptz + this_queue * interval '1 microsecond'))
        ON CONFLICT (source) WHERE status = 'RUNNING' DO NOTHING;
        IF FOUND THEN
            RETURN true;
        ELSIF EXISTS (SELECT FROM pgmq_gateway.move_tasks t
                      WHERE t.source = source_queue AND t.status = 'RUNNING'
                        AND pgmq_gateway.is_task_of(t.started_at, this_queue)) THEN
            RETURN false;
        END IF;
    END LOOP;
    RAISE EXCEPTION 'pgmq_gateway.move_tasks' USING ERRCODE = 'PGW35';
END
$$;

-- A task that nobody is at, and that for some seconds nobody else will be. Those whose queue was dropped, and
-- whose name another one has, end here. One that cannot be changed, for a trigger or the like, is in nobody's way: an
-- error of that is raised where there is no other.
CREATE FUNCTION pgmq_gateway.claim_move_task(seconds integer)
RETURNS SETOF pgmq_gateway.move_tasks LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp SET lock_timeout = '250ms' AS $$
DECLARE
    task record;
    passed_over text[] := '{}';
    has_ended boolean := false;
    kept_code text;
BEGIN
    -- A role that was granted its rights before there were tasks has none to work on them.
    IF NOT has_table_privilege('pgmq_gateway.move_tasks', 'UPDATE')
       OR current_setting('transaction_read_only')::boolean THEN
        RETURN;
    END IF;
    LOOP
        SELECT o.id, o.source, o.started_at INTO task FROM pgmq_gateway.move_tasks o
        WHERE o.status = 'RUNNING' AND o.claimed_until < clock_timestamp() AND o.id <> ALL (passed_over)
        ORDER BY o.claimed_until LIMIT 1 FOR UPDATE SKIP LOCKED;
        EXIT WHEN NOT FOUND;
        passed_over := passed_over || task.id;
        BEGIN
            IF pgmq_gateway.is_task_of(task.started_at, pgmq_gateway.queue_id(task.source)) THEN
                RETURN QUERY UPDATE pgmq_gateway.move_tasks t
                             SET claimed_until = clock_timestamp() + make_interval(secs => seconds)
                             WHERE t.id = task.id RETURNING t.*;
                IF FOUND THEN
                    RETURN;
                END IF;
            ELSE
                UPDATE pgmq_gateway.move_tasks t SET status = 'FAILED', failure = 'queue_not_found'
                WHERE t.id = task.id;
                has_ended := has_ended OR FOUND;
            END IF;
            IF NOT FOUND THEN
                kept_code := 'PGW35';
            END IF;
        EXCEPTION WHEN OTHERS THEN
            kept_code := SQLSTATE;
        END;
    END LOOP;
    -- That would undo what came of others.
    IF kept_code IS NOT NULL AND NOT has_ended THEN
        RAISE EXCEPTION 'pgmq_gateway.move_tasks' USING ERRCODE = kept_code;
    END IF;
END
$$;

-- Whether a message is there that could be delivered when a task began: behind the end of it, one that somebody has
-- locked, as what is in the way of others otherwise is told by itself. What is in somebody's hands is none.
CREATE FUNCTION pgmq_gateway.has_letters_left(source_queue text, began timestamptz)
RETURNS boolean LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp SET lock_timeout = '250ms' AS $$
DECLARE
    is_left boolean;
BEGIN
    EXECUTE format('/* pgmq_gateway */ SELECT EXISTS (SELECT FROM %s q WHERE q.vt <= $1)',
                   pgmq_gateway.queue_table(source_queue)) INTO is_left USING began;
    RETURN is_left;
END
$$;

-- A step of a task (see redrive), which is counted in the same commit. Where the task has been ended meanwhile nothing
-- is moved, and `last_id` is null. Raises PGW35 where the count is not stored.
CREATE FUNCTION pgmq_gateway.redrive_for_task(
    task text, queue text, target text, after_msg_id bigint, max_messages integer, max_rows integer,
    allowed_queues text, INOUT up_to bigint, OUT moved integer, OUT last_id bigint, OUT failed integer,
    OUT failed_code text, OUT failed_constraint text, OUT failed_queue text, OUT unreturnable text
) LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '250ms' AS $$
DECLARE
    step record;
BEGIN
    step := pgmq_gateway.redrive(queue, target, after_msg_id, max_messages, max_rows, allowed_queues, up_to);
    IF step.moved > 0 THEN
        -- Last, so that whoever ends the task waits for no step of it.
        UPDATE pgmq_gateway.move_tasks t SET moved = t.moved + step.moved
        WHERE t.id = task AND t.status = 'RUNNING';
        IF NOT FOUND THEN
            RAISE SQLSTATE 'PGW98';
        END IF;
    END IF;
    up_to := step.up_to;
    moved := step.moved;
    last_id := step.last_id;
    failed := step.failed;
    failed_code := step.failed_code;
    failed_constraint := step.failed_constraint;
    failed_queue := step.failed_queue;
    unreturnable := step.unreturnable;
EXCEPTION WHEN SQLSTATE 'PGW98' THEN
    IF EXISTS (SELECT FROM pgmq_gateway.move_tasks t WHERE t.id = task AND t.status = 'RUNNING') THEN
        RAISE EXCEPTION 'pgmq_gateway.move_tasks' USING ERRCODE = 'PGW35';
    END IF;
    moved := 0;
    failed := 0;
END
$$;

-- Notes what became of a task; it is left for whoever comes next after so many seconds. Raises PGW35 where that is not
-- stored.
CREATE FUNCTION pgmq_gateway.advance_move_task(task text, new_status text, new_failure text, pause float8)
RETURNS void LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp SET lock_timeout = '250ms' AS $$
BEGIN
    UPDATE pgmq_gateway.move_tasks t
    SET failure = CASE t.status WHEN 'RUNNING' THEN new_failure ELSE t.failure END,
        status = CASE t.status WHEN 'RUNNING' THEN new_status ELSE t.status END,
        claimed_until = clock_timestamp() + make_interval(secs => pause)
    WHERE t.id = task;
    IF NOT FOUND AND EXISTS (SELECT FROM pgmq_gateway.move_tasks t WHERE t.id = task) THEN
        RAISE EXCEPTION 'pgmq_gateway.move_tasks' USING ERRCODE = 'PGW35';
    END IF;
END
$$;

-- Ends a task that runs. How many messages it has moved; null if it does not run. Raises PGW35 where it goes on.
CREATE FUNCTION pgmq_gateway.cancel_move_task(task text)
RETURNS bigint LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp SET lock_timeout = '1s' AS $$
DECLARE
    moved_then bigint;
BEGIN
    UPDATE pgmq_gateway.move_tasks t SET status = 'CANCELLED'
    WHERE t.id = task AND t.status = 'RUNNING' RETURNING t.moved INTO moved_then;
    IF EXISTS (SELECT FROM pgmq_gateway.move_tasks t WHERE t.id = task AND t.status = 'RUNNING') THEN
        RAISE EXCEPTION 'pgmq_gateway.move_tasks' USING ERRCODE = 'PGW35';
    END IF;
    RETURN moved_then;
END
$$;

-- The last tasks of a queue, the newest first.
CREATE FUNCTION pgmq_gateway.list_move_tasks(source_queue text, max_rows integer)
RETURNS SETOF pgmq_gateway.move_tasks LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp SET lock_timeout = '250ms' AS $$
DECLARE
    -- May write the queue down.
    this_queue bigint := pgmq_gateway.queue_id(source_queue);
BEGIN
    RETURN QUERY SELECT t.* FROM pgmq_gateway.move_tasks t
                 WHERE t.source = source_queue AND pgmq_gateway.is_task_of(t.started_at, this_queue)
                 ORDER BY t.started_at DESC LIMIT max_rows;
END
$$;
