"""PGMQ's own notifications of messages that are stored."""

from support import equal, ids, step


def throttle(t, queue):
    """What the client lists of a queue, and the gateway's settings agree with."""
    throttles = {n.queue_name: n.throttle_interval_ms for n in t.client.list_notify_throttles()}
    found = throttles.get(queue)
    expected = None if found is None else {"throttle_ms": found}
    equal(t.gateway.settings(queue)["notify"], expected, "`notify` in the gateway's settings")
    return found


def woken(t, queue):
    """Whoever waits is woken, however it is set."""
    receive = t.waiting(queue, vt=60)
    sent = t.client.send(queue, {"n": 1})
    equal(ids(receive.result()), [sent], "what the HTTP client waited for")


@step("enable_notify")
def enable_notify(t):
    """is the setting `notify`"""
    queue = t.queue()
    equal(throttle(t, queue), None, "before")
    t.client.enable_notify(queue)
    equal(t.gateway.settings(queue)["notify"], {"throttle_ms": 250}, "enabled by the client")
    woken(t, queue)
    t.client.enable_notify(queue, throttle_interval_ms=0)
    equal(throttle(t, queue), 0, "enabled without a throttle")
    woken(t, queue)
    other = t.fresh()
    t.gateway.create(other, settings={"notify": {"throttle_ms": 250}})
    equal(throttle(t, other), 250, "enabled by the gateway")
    woken(t, other)


@step("update_notify")
def update_notify(t):
    """changes the setting, and the setting changes it"""
    queue = t.queue()
    t.client.enable_notify(queue)
    t.client.update_notify(queue, 1000)
    equal(throttle(t, queue), 1000, "changed by the client")
    changed = t.gateway.change(queue, notify={"throttle_ms": 500})
    equal(changed["settings"]["notify"], {"throttle_ms": 500}, "the gateway's answer")
    equal(throttle(t, queue), 500, "changed by the gateway")
    woken(t, queue)


@step("disable_notify")
def disable_notify(t):
    """is `notify` null"""
    queue = t.queue()
    t.client.enable_notify(queue)
    t.client.disable_notify(queue)
    equal(throttle(t, queue), None, "disabled by the client")
    t.gateway.change(queue, notify={"throttle_ms": 250})
    equal(throttle(t, queue), 250, "enabled by the gateway")
    t.gateway.change(queue, notify=None)
    equal(throttle(t, queue), None, "disabled by the gateway")
    woken(t, queue)


@step("list_notify_throttles")
def list_notify_throttles(t):
    """what the settings of all queues say"""
    t.client.enable_notify(t.queue(), throttle_interval_ms=100)
    t.gateway.create(t.fresh(), settings={"notify": {"throttle_ms": 200}})
    listed = {n.queue_name: n.throttle_interval_ms for n in t.client.list_notify_throttles()}
    settings = {q["queue"]: t.gateway.settings(q["queue"])["notify"] for q in t.gateway.queues()}
    answered = {queue: notify["throttle_ms"] for queue, notify in settings.items() if notify}
    equal(answered, listed, "the throttles of all queues")
