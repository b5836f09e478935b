"""Queue operations within a transaction of the client's, and what HTTP clients see of it."""

import time

from pgmq import transaction
from support import bodies, check, equal, ids, step


class Shop:
    """A business with a table of its own, which sends in the transaction that it writes in."""

    def __init__(self, t, queue):
        self.client, self.queue = t.client, queue
        # Where the client's decorator takes a connection from.
        self.pool = t.client.pool
        with t.connect() as connection:
            connection.execute("CREATE TABLE IF NOT EXISTS business (item text)")

    @transaction
    def order(self, item, meanwhile, conn=None):
        """One row and one message; `meanwhile` happens before the commit."""
        conn.execute("INSERT INTO business VALUES (%s)", (item,))
        msg_id = self.client.send(self.queue, {"item": item}, conn=conn)
        meanwhile(msg_id)
        return msg_id


class Undo(Exception):
    """What the business fails with."""


def rows(t, item):
    return t.value("SELECT count(*) FROM business WHERE item = %s", item)


def look_around(t, probe):
    """Lets the gateway look for messages, so that it would have found what there is to find."""
    for _ in range(3):
        receive = t.waiting(probe, vt=600)
        sent = t.client.send(probe, {"probe": True})
        equal(ids(receive.result()), [sent], "what was sent beside the transaction")


def nothing_shows(t, queue, probe, receive, item):
    """While the transaction is open, nobody sees its message or its row."""
    look_around(t, probe)
    check(not receive.done(), "the HTTP client got an answer before the commit")
    equal(t.gateway.metrics(queue)["waiters"], 1, "HTTP clients that wait")
    equal(t.gateway.receive(queue), [], "what another HTTP client receives")
    equal(t.gateway.peek(queue), [], "what can be seen in the queue")
    equal(rows(t, item), 0, "rows that can be seen")
    check(not receive.done(), "the HTTP client got an answer before the commit")


@step("transactions")
def committed(t):
    """a message and a row arrive together, after the commit"""
    queue, probe = t.queue(), t.queue()
    shop, item = Shop(t, queue), f"committed {queue}"
    receive = t.waiting(queue, vt=60)
    asked = []

    def meanwhile(msg_id):
        nothing_shows(t, queue, probe, receive, item)
        asked.append(time.monotonic())

    sent = shop.order(item, meanwhile)
    [received] = receive.result()
    equal((received["msg_id"], received["message"]), (sent, {"item": item}), "what was received")
    check(receive.at > asked[0], "the HTTP client got its answer before the commit")
    equal(rows(t, item), 1, "rows, once the message was received")


@step("transactions")
def rolled_back(t):
    """neither arrives after a rollback"""
    queue, probe = t.queue(), t.queue()
    shop, item = Shop(t, queue), f"rolled back {queue}"
    receive = t.waiting(queue, vt=60)

    def meanwhile(msg_id):
        nothing_shows(t, queue, probe, receive, item)
        raise Undo

    try:
        shop.order(item, meanwhile)
        check(False, "the transaction was committed")
    except Undo:
        pass
    nothing_shows(t, queue, probe, receive, item)
    # The first that the HTTP client gets is what is sent next.
    following = t.client.send(queue, {"item": "next"})
    equal(ids(receive.result()), [following], "what was received")
    equal(ids(t.gateway.peek(queue)), [following], "what is in the queue")
    equal(rows(t, item), 0, "rows")


@step("transactions")
def consumed(t):
    """a message that is read and deleted in a transaction is kept by a rollback"""
    queue, archive = t.queue(), t.queue()
    sent = t.gateway.send(queue, {"n": 1})
    kept = t.client.send(archive, {"n": 1})
    for commit in (False, True):
        with t.connect() as connection:
            try:
                with connection.transaction():
                    read = t.client.read(queue, vt=60, conn=connection)
                    equal((read.msg_id, read.read_ct), (sent, 1), "read in the transaction")
                    equal(t.client.delete(queue, sent, conn=connection), True, "deleted in it")
                    equal(t.client.archive(archive, kept, conn=connection), True, "archived in it")
                    # To others it is as if it had not been read, but nobody else gets it.
                    equal(t.gateway.show(queue, sent)["read_ct"], 0, "what the gateway sees")
                    equal(t.gateway.receive(queue), [], "what the gateway receives")
                    if not commit:
                        raise Undo
            except Undo:
                equal(t.gateway.show(queue, sent)["read_ct"], 0, "after the rollback")
                equal(ids(t.gateway.peek(archive)), [kept], "what was archived, after it")
    t.gateway.show(queue, sent, expect=404)
    equal(ids(t.gateway.archived(archive)), [kept], "the archive, after the commit")


@step("transactions")
def in_one_request(t):
    """the gateway's own transactions are whole for the client"""
    work, done = t.queue(), t.queue()
    t.client.send(work, {"n": 1})
    t.client.send(work, {"n": 2})
    first, second = t.client.read(work, qty=2)

    def finish(msg_id, expect):
        delete = {"delete": {"queue": work, "msg_id": msg_id}}
        send = {"send": {"queue": done, "message": {"did": msg_id}}}
        return t.gateway.call("POST", "/transactions", {"operations": [send, delete]}, expect)

    poll = t.polling(lambda: t.client.read_with_poll(done, max_poll_seconds=20))
    finish(1000, expect=(404, 409, 422))
    equal(t.client.metrics(done).queue_length, 0, "sent by a transaction that was undone")
    results = finish(first.msg_id, expect=200)["results"]
    equal(len(results), 2, "results")
    equal(bodies(poll.result()), [{"did": first.msg_id}], "what the client waited for")
    equal(t.client.delete(work, first.msg_id), False, "deleted by the transaction before")
    equal(t.client.delete(work, second.msg_id), True, "the other is still there")
