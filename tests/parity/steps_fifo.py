"""Reading groups of messages in order."""

from support import equal, ids, step


def grouped(t):
    """A queue with messages of two groups, by turns from the client and the gateway."""
    queue = t.queue()
    t.client.create_fifo_index(queue)
    sent = {}
    for name in ("a1", "a2", "b1", "a3", "b2"):
        headers = {"x-pgmq-group": name[0]}
        send = t.gateway.send if len(sent) % 2 else t.client.send
        sent[name] = send(queue, {"name": name}, headers=headers)
    return queue, sent


def names(messages, sent):
    """Which messages these are."""
    by_id = {msg_id: name for name, msg_id in sent.items()}
    return [by_id[msg_id] for msg_id in ids(messages)]


def in_turn(t, read, mode):
    """The client and the gateway respect each other's groups."""
    # A group of which one has a message is not for the other, until that message is dealt with.
    queue, sent = grouped(t)
    equal(names(read(queue, 1), sent), ["a1"], "the client's first")
    equal(names(t.gateway.receive(queue, fifo=mode, vt=60), sent), ["b1"], "the gateway's first")
    equal(read(queue, 10), [], "what is left for the client")
    equal(t.gateway.receive(queue, fifo=mode, qty=100), [], "what is left for the gateway")
    t.gateway.delete(queue, sent["a1"])
    received = t.gateway.receive(queue, fifo=mode, qty=100, vt=60)
    equal(names(received, sent), ["a2", "a3"], "group a, now the gateway's")
    t.client.delete(queue, sent["b1"])
    equal(names(read(queue, 10), sent), ["b2"], "group b, now the client's")


def several(t, read, mode, *expected):
    """Both take the same messages in the same order, with each read of three."""
    for who, take in [
        ("client", lambda queue: read(queue, 3)),
        ("gateway", lambda queue: t.gateway.receive(queue, fifo=mode, qty=3, vt=60)),
    ]:
        queue, sent = grouped(t)
        taken = [names(take(queue), sent) for _ in expected]
        equal(taken, list(expected), f"what the {who} takes")


def waited_for(t, read, mode):
    """Whoever waits gets what the other sends."""
    queue = t.queue()
    group = {"x-pgmq-group": "a"}
    poll = t.polling(lambda: read(queue, 10))
    sent = t.gateway.send(queue, {"n": 1}, headers=group)
    equal(ids(poll.result()), [sent], "what the client waited for")
    receive = t.waiting(queue, fifo=mode, vt=60)
    # Of another group: the first is the client's.
    sent = t.client.send(queue, {"n": 2}, headers={"x-pgmq-group": "b"})
    equal(ids(receive.result()), [sent], "what the HTTP client waited for")
    t.gateway.send(queue, {"n": 3}, headers=group)
    equal(t.gateway.receive(queue, fifo=mode), [], "a group that the client is busy with")


@step("read_grouped")
def read_grouped(t):
    """`fifo=grouped`: one group after the other"""
    read = lambda queue, qty: t.client.read_grouped(queue, vt=60, qty=qty)
    in_turn(t, read, "grouped")
    several(t, read, "grouped", ["a1", "a2", "a3"], ["b1", "b2"], [])


@step("read_grouped_with_poll")
def read_grouped_with_poll(t):
    """`fifo=grouped` with `wait`"""
    wait = dict(vt=60, max_poll_seconds=20, poll_interval_ms=50)
    read = lambda queue, qty: t.client.read_grouped_with_poll(queue, qty=qty, **wait)
    waited_for(t, read, "grouped")


@step("read_grouped_rr")
def read_grouped_rr(t):
    """`fifo=round_robin`: the groups by turns"""
    read = lambda queue, qty: t.client.read_grouped_rr(queue, vt=60, qty=qty)
    in_turn(t, read, "round_robin")
    several(t, read, "round_robin", ["a1", "b1", "a2"], [])


@step("read_grouped_rr_with_poll")
def read_grouped_rr_with_poll(t):
    """`fifo=round_robin` with `wait`"""
    wait = dict(vt=60, max_poll_seconds=20, poll_interval_ms=50)
    read = lambda queue, qty: t.client.read_grouped_rr_with_poll(queue, qty=qty, **wait)
    waited_for(t, read, "round_robin")


def has_index(t, queue):
    """Whether there is PGMQ's own index for groups, which serves its own functions."""
    return t.value("SELECT to_regclass(%s) IS NOT NULL", f"pgmq.q_{queue}_fifo_idx")


@step("create_fifo_index")
def create_fifo_index(t):
    """each has an index of its own, for its own way of reading; one does not hinder the other"""
    mine, theirs = t.queue(), t.fresh()
    t.client.create_fifo_index(mine)
    equal(has_index(t, mine), True, "whether the client's queue has PGMQ's index")
    equal(t.gateway.queue(mine)["fifo"], False, "`fifo` of the client's queue")
    t.gateway.create(theirs, fifo=True)
    equal(t.gateway.queue(theirs)["fifo"], True, "`fifo` of the gateway's queue")
    t.client.create_fifo_index(theirs)
    equal(has_index(t, theirs), True, "whether the gateway's queue has PGMQ's index")


@step("create_fifo_indexes_all")
def create_fifo_indexes_all(t):
    """every queue of the gateway's list has PGMQ's index then"""
    t.gateway.create(t.fresh())
    t.gateway.create(t.fresh(), kind="unlogged")
    t.queue()
    t.client.create_fifo_indexes_all()
    without = [q["queue"] for q in t.gateway.queues() if not has_index(t, q["queue"].lower())]
    equal(without, [], "queues without the index")
