"""Sending, receiving and settling single messages."""

from datetime import datetime, timedelta, timezone
from decimal import Decimal

from support import bodies, check, eventually, equal, ids, instant, same, step

# Contents that something on the way could change.
CONTENTS = [
    {"text": 'Grüße, 世界, 🦀, "quotes", \\, \n'},
    {"nested": {"list": [1, [2, {"three": None}], []], "empty": {}}, "yes": True, "no": False},
    {"big": 12345678901234567890, "small": -9007199254740993},
    {},
]


def later(seconds):
    """A moment from now, with the microseconds that PostgreSQL keeps."""
    return datetime.now(timezone.utc) + timedelta(seconds=seconds)


def text(moment):
    return moment.isoformat()


def delayed(message, seconds):
    """That the gateway's message is hidden for as long after it was stored."""
    hidden = instant(message["vt"]) - instant(message["enqueued_at"])
    low, high = timedelta(seconds=seconds - 1), timedelta(seconds=seconds + 10)
    check(low <= hidden <= high, f"hidden for {hidden}, not {seconds} seconds")


@step("send")
def send(t):
    """contents, headers, delays and moments arrive as they were sent, both ways"""
    queue = t.queue()
    for content in CONTENTS:
        for headers in (None, {"trace": "abc", "n": 1}):
            sent = t.client.send(queue, content, headers=headers)
            [received] = t.gateway.receive(queue)
            found = received["msg_id"], received["message"], received["headers"]
            equal(found, (sent, content, headers), "what the gateway received")
            t.gateway.delete(queue, sent)
            sent = t.gateway.send(queue, content, headers=headers)
            read = t.client.read(queue)
            found = read.msg_id, read.message, read.headers
            equal(found, (sent, content, headers), "what the client read")
            t.client.delete(queue, sent)
    digits = "12345678901234567890.123456789"
    path = f"/queues/{queue}/messages"
    t.gateway.call("POST", path, f'{{"message":{{"n":{digits}}}}}', expect=201)
    equal(t.client.read(queue).message, {"n": Decimal(digits)}, "a number, digit for digit")


@step("send")
def send_later(t):
    """delayed messages"""
    queue, moment = t.queue(), later(600)
    by_seconds = {
        "delay": t.client.send(queue, {"n": 1}, delay=60),
        "delay and headers": t.client.send(queue, {"n": 2}, headers={"h": 1}, delay=60),
        "tz": t.client.send(queue, {"n": 3}, tz=60),
        "the gateway's delay": t.gateway.send(queue, {"n": 4}, delay=60),
    }
    by_moment = {
        "delay": t.client.send(queue, {"n": 5}, delay=moment),
        "headers and delay": t.client.send(queue, {"n": 6}, headers={"h": 1}, delay=moment),
        "the gateway's visible_at": t.gateway.send(queue, {"n": 7}, visible_at=text(moment)),
    }
    for msg_id in by_seconds.values():
        delayed(t.gateway.show(queue, msg_id), 60)
    for what, msg_id in by_moment.items():
        equal(instant(t.gateway.show(queue, msg_id)["vt"]), moment, f"the moment by {what}")
    equal(t.client.read(queue), None, "what the client reads meanwhile")
    equal(t.gateway.receive(queue, qty=100), [], "what the gateway receives meanwhile")
    # A delay that runs out is the same moment for both.
    soon = t.client.send(queue, {"n": 8}, delay=1)
    equal(ids(t.gateway.receive(queue, wait=20)), [soon], "when the client's delay was over")
    soon = t.gateway.send(queue, {"n": 9}, delay=1)
    read = eventually("the gateway's delay is over", lambda: t.client.read(queue))
    equal(read.msg_id, soon, "when the gateway's delay was over")


@step("send_batch")
def send_batch(t):
    """in order, with headers, delays and moments"""
    queue, moment = t.queue(), later(600)
    messages = [{"n": n} for n in range(3)]
    headers = [{"h": n} for n in range(3)]
    sent = t.client.send_batch(queue, messages, headers=headers)
    received = t.gateway.receive(queue, qty=100)
    equal(ids(received), sent, "the order of the client's messages")
    equal(bodies(received), messages, "the client's messages")
    equal([m["headers"] for m in received], headers, "the client's headers")

    batch = [{"message": m, "headers": h} for m, h in zip(messages, headers)]
    path = f"/queues/{queue}/messages/batch"
    sent = t.gateway.call("POST", path, {"messages": batch}, expect=201)["msg_ids"]
    read = t.client.read(queue, qty=100)
    equal(ids(read), sent, "the order of the gateway's messages")
    equal(bodies(read), messages, "the gateway's messages")
    equal([m.headers for m in read], headers, "the gateway's headers")

    for msg_id in t.client.send_batch(queue, messages, delay=60):
        delayed(t.gateway.show(queue, msg_id), 60)
    for msg_id in t.client.send_batch(queue, messages, headers=headers, delay=moment):
        equal(instant(t.gateway.show(queue, msg_id)["vt"]), moment, "the moment")
    equal(t.gateway.receive(queue, qty=100), [], "what can be received meanwhile")
    # Neither stores a part of a batch.
    before = t.client.metrics(queue).queue_length
    bad = {"messages": [{"message": 1}, {"message": "\0"}]}
    t.gateway.call("POST", path, bad, expect=422)
    equal(t.client.metrics(queue).queue_length, before, "messages after a refused batch")


@step("read")
def read(t):
    """what one has leased the other does not get; leases and conditions are the same"""
    queue = t.queue()
    t.gateway.send(queue, {"kind": "a", "n": 1}, headers={"h": 1})
    leased = t.client.read(queue, vt=60)
    same(leased, t.gateway.show(queue, leased.msg_id), "the client's lease")
    equal(leased.read_ct, 1, "how often it was delivered")
    equal(t.gateway.receive(queue), [], "what is left for the gateway")
    t.gateway.set_vt(queue, leased.msg_id, vt=0)
    [received] = t.gateway.receive(queue, vt=60)
    equal(received["read_ct"], 2, "how often it was delivered, the second time")
    equal(t.client.read(queue), None, "what is left for the client")
    t.client.set_vt(queue, leased.msg_id, 0)
    equal(t.client.read(queue).read_ct, 3, "how often it was delivered, the third time")

    queue = t.queue()
    sent = t.client.send_batch(queue, [{"kind": kind} for kind in "abab"])
    found = t.gateway.receive(queue, filter='{"kind":"b"}', qty=1)
    equal(ids(found), [sent[1]], "what the gateway's filter finds")
    found = t.client.read(queue, qty=10, conditional={"kind": "b"})
    equal(ids(found), [sent[3]], "what the client's condition finds")
    equal(ids(t.gateway.receive(queue, qty=100)), [sent[0], sent[2]], "the others")


@step("read_batch")
def read_batch(t):
    """as many as asked for, none twice"""
    queue = t.queue()
    sent = [t.gateway.send(queue, {"n": n}) for n in range(6)]
    equal(ids(t.client.read_batch(queue, vt=60, batch_size=2)), sent[:2], "the first two")
    equal(ids(t.gateway.receive(queue, qty=2)), sent[2:4], "the next two")
    equal(ids(t.client.read_batch(queue, vt=60, batch_size=10)), sent[4:], "the rest")
    equal(t.client.read_batch(queue), [], "nothing is left")
    equal(t.gateway.receive(queue, qty=100), [], "nothing is left for the gateway")


@step("read_with_poll")
def read_with_poll(t):
    """whoever waits gets what the other sends"""
    queue = t.queue()
    wait = dict(vt=60, max_poll_seconds=20, poll_interval_ms=50)
    poll = t.polling(lambda: t.client.read_with_poll(queue, **wait))
    sent = t.gateway.send(queue, {"from": "gateway"})
    equal(ids(poll.result()), [sent], "what the client waited for")

    receive = t.waiting(queue, vt=60)
    sent = t.client.send(queue, {"from": "client"})
    [received] = receive.result()
    found = received["msg_id"], received["message"]
    equal(found, (sent, {"from": "client"}), "what the HTTP client waited for")

    wanted = {"kind": "wanted"}
    poll = t.polling(lambda: t.client.read_with_poll(queue, conditional=wanted, **wait))
    receive = t.waiting(queue, filter='{"kind":"other"}')
    mine = t.gateway.send(queue, wanted)
    equal(ids(poll.result()), [mine], "what the client waited for under a condition")
    theirs = t.client.send(queue, {"kind": "other"})
    equal(ids(receive.result()), [theirs], "what the HTTP client waited for with a filter")
    equal(t.client.read_with_poll(queue, max_poll_seconds=1), [], "when the client's time is up")
    equal(t.gateway.receive(queue, wait=1), [], "when the gateway's time is up")


@step("pop")
def pop(t):
    """read and gone, for both"""
    queue = t.queue()
    mine = t.client.send_batch(queue, [{"n": n} for n in range(3)])
    theirs = [t.gateway.send(queue, {"n": n}) for n in range(3, 6)]
    equal(t.client.pop(queue).msg_id, mine[0], "popped by the client")
    popped = t.gateway.pop(queue)
    equal((ids(popped), bodies(popped)), ([mine[1]], [{"n": 1}]), "popped by the gateway")
    equal(ids(t.client.pop(queue, qty=2)), [mine[2], theirs[0]], "popped by the client")
    equal(ids(t.gateway.pop(queue, qty=100)), theirs[1:], "popped by the gateway")
    equal(t.gateway.peek(queue), [], "what is left")
    equal((t.client.pop(queue), t.gateway.pop(queue)), (None, []), "popped from an empty queue")


@step("delete")
def delete(t):
    """what either deletes is gone for the other"""
    queue = t.queue()
    t.client.send(queue, {"n": 1})
    t.gateway.send(queue, {"n": 2})
    [received] = t.gateway.receive(queue)
    leased = t.client.read(queue)
    equal(t.client.delete(queue, received["msg_id"]), True, "the client deletes")
    problem = t.gateway.delete(queue, received["msg_id"], expect=404)
    equal(problem["code"], "message_not_found", "the code of what the client deleted")
    t.gateway.delete(queue, leased.msg_id)
    equal(t.client.delete(queue, leased.msg_id), False, "what the gateway deleted")
    equal(t.gateway.peek(queue), [], "what is left")


@step("archive")
def archive(t):
    """what either archives leaves the queue, and stands in the same archive"""
    queue = t.queue()
    mine = t.client.send(queue, {"n": 1}, headers={"h": 1})
    theirs = t.gateway.send(queue, {"n": 2})
    equal(t.client.archive(queue, theirs), True, "the client archives")
    t.gateway.archive(queue, theirs, expect=404)
    t.gateway.archive(queue, mine)
    equal(t.client.archive(queue, mine), False, "what the gateway archived")
    equal(t.gateway.peek(queue), [], "what is left in the queue")
    rows = "SELECT jsonb_object_agg(msg_id, message) FROM pgmq.a_" + queue
    equal(t.value(rows), {str(mine): {"n": 1}, str(theirs): {"n": 2}}, "the archive, by SQL")
    archived = {m["msg_id"]: m for m in t.gateway.archived(queue)}
    equal(sorted(archived), [mine, theirs], "the archive, by the gateway")
    equal(archived[mine]["headers"], {"h": 1}, "headers in the archive")
    for msg_id, message in archived.items():
        when = f"SELECT archived_at FROM pgmq.a_{queue} WHERE msg_id = %s"
        equal(instant(message["archived_at"]), t.value(when, msg_id), "`archived_at`")


@step("set_vt")
def set_vt(t):
    """seconds and moments, by either, as the other sees them"""
    queue, moment = t.queue(), later(600)
    mine, theirs = t.client.send(queue, {"n": 1}), t.gateway.send(queue, {"n": 2})
    for msg_id in (mine, theirs):
        for vt in (60, moment):
            changed = t.client.set_vt(queue, msg_id, vt)
            same(changed, t.gateway.show(queue, msg_id), "changed by the client")
            equal(t.gateway.receive(queue, filter='{"n":%d}' % changed.message["n"]), [], "hidden")
        t.client.set_vt(queue, msg_id, 0)
        for when in ({"vt": 60}, {"visible_at": text(moment)}):
            changed = t.gateway.set_vt(queue, msg_id, **when)
            # The client has no way of looking at a message but to change it.
            seen = t.client.set_vt(queue, msg_id, instant(changed["vt"]))
            same(seen, changed, "changed by the gateway")
        equal(instant(changed["vt"]), moment, "the moment")
    equal(t.client.read(queue), None, "hidden from the client")
    t.gateway.set_vt(queue, mine, vt=0)
    equal(t.client.read(queue, vt=60).msg_id, mine, "given back by the gateway")
    t.client.set_vt(queue, theirs, 0)
    equal(ids(t.gateway.receive(queue, vt=60)), [theirs], "given back by the client")
    equal(t.client.set_vt(queue, 1000, 0), None, "a message that is not there")
    t.gateway.call("PATCH", f"/queues/{queue}/messages/1000", {"vt": 0}, expect=404)
