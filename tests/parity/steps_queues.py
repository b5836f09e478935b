"""Making, listing, emptying, measuring and dropping queues."""

from support import bodies, check, equal, ids, instant, same, step


def refused(call, what):
    """The error with which the database refuses what the client wants."""
    try:
        call()
    except Exception as error:
        return error
    check(False, what)


def install_partman(t):
    available = "SELECT count(*) FROM pg_available_extensions WHERE name = 'pg_partman'"
    check(t.value(available), "pg_partman is not installed: see tools/setup --test")
    with t.connect() as connection:
        connection.execute("CREATE SCHEMA IF NOT EXISTS partman")
        connection.execute("CREATE EXTENSION IF NOT EXISTS pg_partman SCHEMA partman")


def record(t, queue):
    """What the client lists of a queue."""
    listed = [record for record in t.client.list_queues() if record.queue_name == queue]
    check(len(listed) <= 1, f"{queue} is listed twice")
    return listed[0] if listed else None


def both_ways(t, queue):
    """A message of each reaches the other."""
    equal(t.gateway.receive(queue), [], "an empty queue")
    t.client.send(queue, {"from": "client"})
    received = t.gateway.receive(queue)
    equal(bodies(received), [{"from": "client"}], "what the gateway received")
    t.gateway.send(queue, {"from": "gateway"})
    read = t.client.read(queue)
    equal(read.message, {"from": "gateway"}, "what the client read")
    for msg_id in ids(received) + [read.msg_id]:
        t.gateway.delete(queue, msg_id)


@step("create_queue")
def create_queue(t):
    """a queue of either is the other's too, unlogged ones as well"""
    for unlogged, kind, other in [(False, "standard", "unlogged"), (True, "unlogged", "standard")]:
        mine, theirs = t.fresh(), t.fresh()
        t.gateway.queue(mine, expect=404)
        t.client.create_queue(mine, unlogged=unlogged)
        shown = t.gateway.queue(mine)
        equal((shown["queue"], shown["kind"]), (mine, kind), "the client's queue")
        equal(instant(shown["created_at"]), record(t, mine).created_at, "when it was made")
        equal(t.gateway.call("PUT", f"/queues/{mine}", {"kind": kind}), shown, "made again")
        t.gateway.call("PUT", f"/queues/{mine}", {"kind": other}, expect=409)

        made = t.gateway.create(theirs, kind=kind)
        listed = record(t, theirs)
        equal((listed.is_unlogged, listed.is_partitioned), (unlogged, False), "the gateway's queue")
        equal(listed.created_at, instant(made["created_at"]), "when it was made")
        t.client.create_queue(theirs, unlogged=unlogged)
        equal(t.gateway.queue(theirs), made, "made again by the client")
        both_ways(t, mine)
        both_ways(t, theirs)


@step("create_partitioned_queue")
def create_partitioned_queue(t):
    """partitioned by number and by time, by either"""
    install_partman(t)
    for interval, retention in [(1000, 5000), ("1 day", "7 days")]:
        mine, theirs = t.fresh(), t.fresh()
        t.client.create_partitioned_queue(mine, interval, retention)
        shown = t.gateway.queue(mine)
        equal(shown["kind"], "partitioned", "the client's queue")
        partition = {"interval": str(interval), "retention": str(retention)}
        wish = {"kind": "partitioned", "partition": partition}
        equal(t.gateway.call("PUT", f"/queues/{mine}", wish), shown, "made again")
        t.gateway.create(theirs, **wish)
        listed = record(t, theirs)
        equal((listed.is_unlogged, listed.is_partitioned), (False, True), "the gateway's queue")
        both_ways(t, mine)
        both_ways(t, theirs)
        t.gateway.call("DELETE", f"/queues/{mine}", expect=204)
        equal(t.client.drop_queue(theirs), True, "dropped by the client")
        equal((record(t, mine), record(t, theirs)), (None, None), "dropped queues")
        t.gateway.queue(theirs, expect=404)


@step("validate_queue_name")
def validate_queue_name(t):
    """what is too long for one is too long for the other"""
    longest = t.fresh().ljust(47, "x")
    equal(t.client.validate_queue_name(longest), True, "a name of 47 characters")
    t.gateway.create(longest)
    both_ways(t, longest)
    error = refused(lambda: t.client.validate_queue_name(longest + "x"), "48 characters are fine")
    check("47" in str(error), f"the client's reason: {error}")
    problem = t.gateway.call("PUT", f"/queues/{longest}x", expect=400)
    equal(problem["code"], "invalid_request", "the gateway's code")
    check("47" in problem["detail"], f"the gateway's reason: {problem['detail']}")


@step("drop_queue")
def drop_queue(t):
    """what either drops is gone for the other"""
    mine, theirs = t.queue(), t.queue()
    t.client.send(mine, {"n": 1})
    t.client.send(theirs, {"n": 1})
    equal(t.client.drop_queue(mine), True, "dropped by the client")
    for path in ("", "/messages", "/metrics", "/peek"):
        problem = t.gateway.call("GET", f"/queues/{mine}{path}", expect=404)
        equal(problem["code"], "queue_not_found", f"the code of {path or 'the queue'}")
    t.gateway.call("DELETE", f"/queues/{mine}", expect=404)
    t.gateway.call("DELETE", f"/queues/{theirs}", expect=204)
    equal(t.client.drop_queue(theirs), False, "dropped by the gateway before")
    equal((record(t, mine), record(t, theirs)), (None, None), "dropped queues")
    # A name that was dropped is free, for either, and nothing of before is left.
    t.gateway.create(mine)
    t.client.create_queue(theirs)
    both_ways(t, mine)
    both_ways(t, theirs)


@step("list_queues")
def list_queues(t):
    """the same queues of the same kinds, whoever made them"""
    t.queue()
    t.gateway.create(t.fresh(), kind="unlogged")
    kinds = {(False, False): "standard", (True, False): "unlogged", (False, True): "partitioned"}
    listed = {
        r.queue_name: (kinds[r.is_unlogged, r.is_partitioned], r.created_at)
        for r in t.client.list_queues()
    }
    answered = t.gateway.queues()
    equal([q["queue"] for q in answered], sorted(listed), "the names, in order")
    for queue in answered:
        found = queue["kind"], instant(queue["created_at"])
        equal(found, listed[queue["queue"]], f"`{queue['queue']}`")


@step("purge")
def purge(t):
    """either empties a queue, and says how many messages there were"""
    queue = t.queue()
    for n in range(3):
        t.client.send(queue, {"n": n})
        t.gateway.send(queue, {"n": n}, delay=60)
    t.gateway.receive(queue)
    equal(t.client.purge(queue), 6, "purged by the client")
    equal(t.gateway.peek(queue), [], "what the gateway sees")
    t.client.send_batch(queue, [{"n": n} for n in range(4)])
    purged = t.gateway.call("POST", f"/queues/{queue}/purge")
    equal(purged, {"purged": 4}, "purged by the gateway")
    equal(t.client.read(queue), None, "what the client reads")
    equal(t.client.metrics(queue).queue_length, 0, "what the client counts")


COUNTS = ("queue_length", "queue_visible_length", "total_messages")


def counts(metrics):
    return {field: getattr(metrics, field) for field in COUNTS}


def same_metrics(t, metrics):
    """The gateway's figures are the client's."""
    queue, before = metrics.queue_name, None
    # A lease may run out between two looks.
    while before != counts(metrics):
        before = counts(metrics)
        answered = t.gateway.metrics(queue)
        metrics = t.client.metrics(queue)
    equal(answered["queue"], queue, "the queue of the metrics")
    for field in COUNTS:
        equal(answered[field], before[field], f"`{field}` of {queue}")
    for field in ("newest_msg_age_sec", "oldest_msg_age_sec"):
        found, expected = answered[field], getattr(metrics, field)
        equal(found is None, expected is None, f"whether there is a `{field}`")
        # They are taken one after the other.
        near = expected is None or 0 <= expected - found <= 30
        check(near, f"`{field}` of {queue}: {found}, not {expected}")
    check(instant(answered["scrape_time"]) <= metrics.scrape_time, "when it was counted")


@step("metrics")
def metrics(t):
    """the same figures of a queue with all sorts of messages"""
    queue = t.queue()
    same_metrics(t, t.client.metrics(queue))
    t.client.send_batch(queue, [{"n": n} for n in range(3)])
    t.gateway.send(queue, {"n": 3}, delay=60)
    t.client.read(queue, vt=60)
    t.gateway.receive(queue, vt=60)
    t.gateway.pop(queue)
    figures = t.client.metrics(queue)
    same_metrics(t, figures)
    found = figures.queue_length, figures.queue_visible_length, figures.total_messages
    equal(found, (3, 0, 4), "length, visible length and total")


@step("metrics_all")
def metrics_all(t):
    """the same figures of every queue"""
    t.client.send(t.queue(), {"n": 1})
    everything = t.client.metrics_all()
    listed = {queue["queue"] for queue in t.gateway.queues()}
    equal({figures.queue_name for figures in everything}, listed, "the queues")
    for figures in everything:
        same_metrics(t, figures)


@step("convert_archive_partitioned")
def convert_archive_partitioned(t):
    """the gateway archives into it, and reads from it"""
    install_partman(t)
    queue = t.queue()
    t.client.convert_archive_partitioned(queue, 1000, 5000)
    partitioned = "SELECT relkind = 'p' FROM pg_class WHERE oid = %s::regclass"
    check(t.value(partitioned, f"pgmq.a_{queue}"), "the archive is partitioned")
    mine, theirs = t.client.send(queue, {"n": 1}), t.gateway.send(queue, {"n": 2})
    equal(t.client.archive(queue, theirs), True, "archived by the client")
    t.gateway.archive(queue, mine)
    archived = t.gateway.archived(queue)
    equal(sorted(ids(archived)), [mine, theirs], "what the gateway sees in the archive")
    both_ways(t, queue)
    t.gateway.call("DELETE", f"/queues/{queue}", expect=204)
    equal(record(t, queue), None, "dropped by the gateway")


@step("detach_archive")
def detach_archive(t):
    """does nothing in this PGMQ, and nothing to the gateway"""
    queue = t.queue()
    mine = t.client.send(queue, {"n": 1})
    t.gateway.archive(queue, mine)
    before = t.gateway.archived(queue)
    t.client.detach_archive(queue)
    equal(t.gateway.archived(queue), before, "the archive")
    theirs = t.gateway.send(queue, {"n": 2})
    same(t.client.set_vt(queue, theirs, 0), t.gateway.show(queue, theirs), "a message")
