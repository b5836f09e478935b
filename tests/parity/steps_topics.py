"""Bindings, and sending to whatever is bound."""

from datetime import datetime, timedelta, timezone
from urllib.parse import quote

from support import bodies, check, equal, ids, instant, step


def listed(bindings):
    """The client's bindings, for comparison."""
    return sorted((b.pattern, b.queue_name, b.bound_at) for b in bindings)


def answered(answer):
    """The gateway's bindings, for comparison."""
    return sorted((b["pattern"], b["queue"], instant(b["bound_at"])) for b in answer["bindings"])


def bindings(t, queue):
    """A queue's bindings, which are the same for both."""
    found = answered(t.gateway.call("GET", f"/queues/{queue}/bindings"))
    equal(found, listed(t.client.list_topic_bindings(queue)), f"the bindings of {queue}")
    return [pattern for pattern, _, _ in found]


def subscribed(t):
    """A topic of the step's own: its key, and two queues that get what is sent there."""
    first, second = t.queue(), t.queue()
    t.client.bind_topic(f"{first}.*", first)
    t.gateway.bind(second, f"{first}.#")
    return f"{first}.made", first, second


@step("bind_topic")
def bind_topic(t):
    """a binding of either is the other's too"""
    queue = t.queue()
    equal(bindings(t, queue), [], "the bindings of a new queue")
    t.client.bind_topic("client.*", queue)
    equal(bindings(t, queue), ["client.*"], "bound by the client")
    t.gateway.bind(queue, "client.*", expect=200)
    t.gateway.bind(queue, "gateway.#")
    t.client.bind_topic("gateway.#", queue)
    equal(bindings(t, queue), ["client.*", "gateway.#"], "bound by the gateway as well")


@step("unbind_topic")
def unbind_topic(t):
    """what either unbinds is unbound for the other"""
    queue = t.queue()
    t.client.bind_topic("client.#", queue)
    t.gateway.bind(queue, "gateway.*")
    equal(t.client.unbind_topic("gateway.*", queue), True, "unbound by the client")
    t.gateway.unbind(queue, "gateway.*", expect=404)
    t.gateway.unbind(queue, "client.#")
    equal(t.client.unbind_topic("client.#", queue), False, "unbound by the gateway before")
    equal(bindings(t, queue), [], "what is left")


@step("list_topic_bindings")
def list_topic_bindings(t):
    """the same list, of all queues and of one"""
    _, first, second = subscribed(t)
    equal(bindings(t, first), [f"{first}.*"], "the client's binding")
    equal(bindings(t, second), [f"{first}.#"], "the gateway's binding")
    everything = answered(t.gateway.call("GET", "/bindings"))
    equal(everything, listed(t.client.list_topic_bindings()), "all bindings")


@step("test_routing")
def test_routing(t):
    """a message would go to the same queues"""
    key, first, second = subscribed(t)
    for key, expected in [
        (key, {first, second}),
        (f"{key}.twice", {second}),
        (f"nothing.{key}", set()),
    ]:
        routes = t.client.test_routing(key)
        equal({route.queue_name for route in routes}, expected, f"the client's routes of {key}")
        queues = t.gateway.topic("GET", key, "queues", expect=200)["queues"]
        equal(set(queues), expected, f"the gateway's routes of {key}")


@step("send_topic")
def send_topic(t):
    """reaches the same queues, with headers and delays"""
    key, first, second = subscribed(t)
    # PGMQ has no function for headers without a delay, though the client would call it.
    sent = t.client.send_topic(key, {"from": "client"}, headers={"h": 1}, delay=0)
    equal(sent, 2, "the client's deliveries")
    for queue in (first, second):
        [received] = t.gateway.receive(queue)
        found = received["message"], received["headers"]
        equal(found, ({"from": "client"}, {"h": 1}), f"what {queue} received")
    body = {"message": {"from": "gateway"}, "headers": {"h": 2}}
    answer = t.gateway.topic("POST", key, "messages", body)
    read = {queue: t.client.read(queue) for queue in (first, second)}
    deliveries = {d["queue"]: d["msg_id"] for d in answer["deliveries"]}
    equal(deliveries, {queue: m.msg_id for queue, m in read.items()}, "the gateway's deliveries")
    for queue, message in read.items():
        found = message.message, message.headers
        equal(found, ({"from": "gateway"}, {"h": 2}), f"what {queue} has")

    equal(t.client.send_topic(key, {"n": 1}, delay=60), 2, "delayed deliveries")
    t.gateway.topic("POST", key, "messages", {"message": {"n": 2}, "delay": 60})
    for queue in (first, second):
        equal(t.gateway.receive(queue, qty=100), [], "what can be received meanwhile")
        equal(bodies(t.gateway.peek(queue))[-2:], [{"n": 1}, {"n": 2}], "what is stored")
    nowhere = f"nowhere.{key}"
    equal(t.client.send_topic(nowhere, {"n": 1}), 0, "the client's deliveries to nobody")
    answer = t.gateway.topic("POST", nowhere, "messages", {"message": {"n": 1}})
    equal(answer, {"deliveries": []}, "the gateway's deliveries to nobody")


@step("send_batch_topic")
def send_batch_topic(t):
    """every message reaches every queue, in order"""
    key, first, second = subscribed(t)
    messages, headers = [{"n": n} for n in range(3)], [{"h": n} for n in range(3)]
    results = t.client.send_batch_topic(key, messages, headers=headers)
    for queue in (first, second):
        received = t.gateway.receive(queue, qty=100)
        sent = [result.msg_id for result in results if result.queue_name == queue]
        equal(sorted(sent), ids(received), f"the client's deliveries to {queue}")
        equal(bodies(received), messages, f"what {queue} received")
        equal([m["headers"] for m in received], headers, f"the headers that {queue} received")
    batch = {"messages": [{"message": m, "headers": h} for m, h in zip(messages, headers)]}
    deliveries = t.gateway.topic("POST", key, "messages/batch", batch)["deliveries"]
    for queue in (first, second):
        read = t.client.read(queue, qty=100)
        sent = [delivery["msg_id"] for delivery in deliveries if delivery["queue"] == queue]
        equal(sorted(sent), ids(read), f"the gateway's deliveries to {queue}")
        equal(bodies(read), messages, f"what {queue} has")
        equal([m.headers for m in read], headers, f"the headers that {queue} has")
    moment = datetime.now(timezone.utc) + timedelta(seconds=600)
    for result in t.client.send_batch_topic(key, messages, delay=moment):
        shown = t.gateway.show(result.queue_name, result.msg_id)
        equal(instant(shown["vt"]), moment, "the moment")


@step("validate_routing_key")
def validate_routing_key(t):
    """the same keys will do"""
    for key in ("logs", "logs.error", "a-b_c.D.9", "x" * 255):
        equal(t.client.validate_routing_key(key), True, f"the client on {key}")
        t.gateway.topic("GET", key, "queues", expect=200)
    for key in ("logs.*", "#", ".logs", "logs.", "a..b", "a b", "logs!", "ä", "x" * 256):
        equal(t.client.validate_routing_key(key), False, f"the client on {key}")
        problem = t.gateway.topic("GET", key, "queues", expect=400)
        equal(problem["code"], "invalid_request", f"the gateway's code for {quote(key)}")
        t.gateway.topic("POST", key, "messages", {"message": {}}, expect=400)


@step("validate_topic_pattern")
def validate_topic_pattern(t):
    """the same patterns will do"""
    queue = t.queue()
    good = ("logs", "logs.*", "logs.#", "*.error", "#", "a-b.*.#", "x" * 255)
    for pattern in good:
        equal(t.client.validate_topic_pattern(pattern), True, f"the client on {pattern}")
        t.gateway.bind(queue, pattern)
    for pattern in ("", ".a", "a.", "a..b", "a.**", "##", "*#", "a b", "a!", "x" * 256):
        equal(t.client.validate_topic_pattern(pattern), False, f"the client on {pattern!r}")
        t.gateway.bind(queue, pattern, expect=400)
    equal(bindings(t, queue), sorted(good), "what is bound")
    for pattern in good:
        check(t.client.unbind_topic(pattern, queue), f"{pattern} was bound")
