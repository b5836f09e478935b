"""Settling messages in batches: the client's batch methods and the gateway's `settle`."""

from datetime import datetime, timedelta, timezone

from support import equal, ids, instant, same, step

NOT_THERE = 1000


def entries(msg_ids, **more):
    return [{"msg_id": msg_id, **more} for msg_id in msg_ids]


def settled(answer, **lists):
    """What the gateway says it did, and that just the one that is not there failed."""
    for name in ("deleted", "archived", "dead_lettered", "retried"):
        equal(sorted(answer[name]), lists.get(name, []), f"`{name}`")
    failed = [(f["msg_id"], f["code"]) for f in answer["failed"]]
    equal(failed, [(NOT_THERE, "message_not_found")], "`failed`")


def filled(t):
    """A queue with messages of both."""
    queue = t.queue()
    mine = t.client.send_batch(queue, [{"n": n} for n in range(3)])
    theirs = [t.gateway.send(queue, {"n": n}) for n in range(3, 6)]
    return queue, mine, theirs


@step("delete_batch")
def delete_batch(t):
    """many at once, by either"""
    queue, mine, theirs = filled(t)
    deleted = t.client.delete_batch(queue, theirs + [NOT_THERE])
    equal(sorted(deleted), theirs, "deleted by the client")
    answer = t.gateway.settle(queue, delete=entries(mine + [NOT_THERE]))
    settled(answer, deleted=mine)
    equal(t.client.delete_batch(queue, mine), [], "deleted by the gateway before")
    equal(t.gateway.peek(queue), [], "what is left")


@step("delete_batch")
def delete_by_receipt(t):
    """by receipt, which the client's delivery makes stale"""
    queue, mine, _ = filled(t)
    received = {m["msg_id"]: m["receipt"] for m in t.gateway.receive(queue, qty=3)}
    equal(sorted(received), mine, "received")
    # One of them comes back and goes to the client.
    t.client.set_vt(queue, mine[0], 0)
    equal(t.client.read(queue, vt=60).msg_id, mine[0], "delivered to the client")
    delete = [{"receipt": receipt} for receipt in received.values()]
    answer = t.gateway.settle(queue, delete=delete)
    equal(sorted(answer["deleted"]), mine[1:], "deleted by receipt")
    failed = [(f["msg_id"], f["code"]) for f in answer["failed"]]
    equal(failed, [(mine[0], "receipt_stale")], "the client's message")
    equal(t.client.delete(queue, mine[0]), True, "which the client deletes")


@step("archive_batch")
def archive_batch(t):
    """many at once, by either, into the same archive"""
    queue, mine, theirs = filled(t)
    archived = t.client.archive_batch(queue, theirs + [NOT_THERE])
    equal(sorted(archived), theirs, "archived by the client")
    answer = t.gateway.settle(queue, archive=entries(mine + [NOT_THERE]))
    settled(answer, archived=mine)
    equal(t.client.archive_batch(queue, mine), [], "archived by the gateway before")
    equal(t.gateway.peek(queue), [], "what is left in the queue")
    equal(sorted(ids(t.gateway.archived(queue))), mine + theirs, "the archive")
    equal(t.value(f"SELECT count(*) FROM pgmq.a_{queue}"), 6, "the archive, by SQL")


@step("set_vt")
def set_vt_batch(t):
    """many at once"""
    queue, mine, theirs = filled(t)
    moment = datetime.now(timezone.utc) + timedelta(seconds=600)
    for vt in (60, moment):
        changed = t.client.set_vt(queue, theirs + [NOT_THERE], vt)
        equal(sorted(ids(changed)), theirs, "changed by the client")
        for message in changed:
            same(message, t.gateway.show(queue, message.msg_id), "changed by the client")
    before = datetime.now(timezone.utc) - timedelta(seconds=5)
    retry = entries(mine + [NOT_THERE], delay=60)
    settled(t.gateway.settle(queue, retry=retry), retried=mine)
    equal(t.client.read(queue, qty=10), [], "hidden from the client")
    for msg_id in mine:
        hidden = instant(t.gateway.show(queue, msg_id)["vt"]) - before
        equal(60 <= hidden.total_seconds() <= 120, True, "hidden for a minute by the gateway")
    t.gateway.settle(queue, retry=entries(mine, delay=0))
    equal(ids(t.client.read(queue, qty=10)), mine, "given back by the gateway")
