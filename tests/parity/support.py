"""What the steps stand on: both clients, queues of one's own, and how to wait and compare."""

import http.client
import json
import secrets
import threading
import time
from datetime import datetime
from decimal import Decimal
from urllib.parse import quote, urlencode, urlsplit

import psycopg
from pgmq import PGMQueue
from psycopg.conninfo import conninfo_to_dict
from psycopg.types.json import set_json_loads

# How long a condition may take to come true: long, as the machine may be busy.
PATIENCE = 30.0

# Every public method of the client that a step takes care of, and the steps in their order.
COVERED = {}


def step(*methods):
    """Registers a step, which takes care of these methods of the client."""

    def register(function):
        for method in methods:
            COVERED.setdefault(method, []).append(function)
        return function

    return register


class Failed(AssertionError):
    """A difference between the client and the gateway."""


def check(condition, what):
    if not condition:
        raise Failed(what)


def equal(found, expected, what):
    check(found == expected, f"{what}: {found!r}, expected {expected!r}")


def loads(text):
    """JSON without loss: numbers keep their digits."""
    return json.loads(text, parse_float=Decimal)


def instant(text):
    """A time as the gateway writes it."""
    check(text.endswith("Z") and len(text) == 27, f"a time with microseconds in UTC, not {text!r}")
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def same(message, answered, what):
    """A message is the same, whether the client or the gateway shows it."""
    check(message is not None, f"{what}: the client has no message")
    for field in ("msg_id", "read_ct", "message", "headers"):
        equal(answered[field], getattr(message, field), f"{what}: `{field}`")
    for field in ("enqueued_at", "last_read_at", "vt"):
        found = answered[field] and instant(answered[field])
        equal(found, getattr(message, field), f"{what}: `{field}`")


def ids(messages):
    """The ids of the client's messages, or of the gateway's."""
    return [m["msg_id"] if isinstance(m, dict) else m.msg_id for m in messages]


def bodies(messages):
    """The contents of the client's messages, or of the gateway's."""
    return [m["message"] if isinstance(m, dict) else m.message for m in messages]


def eventually(what, condition):
    """Waits until `condition` gives something."""
    deadline = time.monotonic() + PATIENCE
    while not (value := condition()):
        check(time.monotonic() < deadline, f"waited in vain: {what}")
        time.sleep(0.01)
    return value


class Gateway:
    """The gateway, by plain HTTP."""

    def __init__(self, base):
        self.address = urlsplit(base).netloc

    def call(self, method, path, body=None, expect=200):
        """Asks, insists on the status, and returns what the answer says."""
        if body is not None and not isinstance(body, str):
            body = json.dumps(body)
        connection = http.client.HTTPConnection(self.address, timeout=60)
        try:
            connection.request(method, path, body)
            answer = connection.getresponse()
            text = answer.read().decode()
        finally:
            connection.close()
        allowed = expect if isinstance(expect, tuple) else (expect,)
        check(answer.status in allowed, f"{method} {path} {body or ''}: {answer.status} {text}")
        return loads(text) if text else None

    def create(self, queue, **body):
        return self.call("PUT", f"/queues/{queue}", body or None, expect=201)

    def queue(self, queue, expect=200):
        return self.call("GET", f"/queues/{queue}", expect=expect)

    def settings(self, queue):
        return self.queue(queue)["settings"]

    def change(self, queue, **settings):
        return self.call("PATCH", f"/queues/{queue}", {"settings": settings})

    def send(self, queue, message, **options):
        body = {"message": message, **options}
        return self.call("POST", f"/queues/{queue}/messages", body, expect=201)["msg_id"]

    def receive(self, queue, **parameters):
        path = f"/queues/{queue}/messages?{urlencode(parameters)}"
        return self.call("GET", path)["messages"]

    def show(self, queue, msg_id, expect=200):
        return self.call("GET", f"/queues/{queue}/messages/{msg_id}", expect=expect)

    def peek(self, queue):
        return self.call("GET", f"/queues/{queue}/peek?limit=100")["messages"]

    def delete(self, queue, msg_id, expect=204):
        return self.call("DELETE", f"/queues/{queue}/messages/{msg_id}", expect=expect)

    def archive(self, queue, msg_id, expect=204):
        return self.call("POST", f"/queues/{queue}/messages/{msg_id}/archive", expect=expect)

    def archived(self, queue):
        return self.call("GET", f"/queues/{queue}/archive?limit=100")["messages"]

    def set_vt(self, queue, msg_id, **when):
        return self.call("PATCH", f"/queues/{queue}/messages/{msg_id}", when)

    def settle(self, queue, **lists):
        return self.call("POST", f"/queues/{queue}/messages/settle", lists)

    def pop(self, queue, qty=1):
        return self.call("POST", f"/queues/{queue}/messages/pop?qty={qty}")["messages"]

    def metrics(self, queue):
        return self.call("GET", f"/queues/{queue}/metrics")

    def queues(self):
        """All queues, by way of small pages."""
        queues, after = [], None
        while True:
            page = {"limit": 7} | ({"after": after} if after else {})
            answer = self.call("GET", f"/queues?{urlencode(page)}")
            queues += answer["queues"]
            after = answer["next"]
            if after is None:
                return queues

    def bind(self, queue, pattern, expect=201):
        path = f"/queues/{queue}/bindings"
        return self.call("POST", path, {"pattern": pattern}, expect=expect)

    def unbind(self, queue, pattern, expect=204):
        path = f"/queues/{queue}/bindings?{urlencode({'pattern': pattern})}"
        return self.call("DELETE", path, expect=expect)

    def topic(self, method, key, what, body=None, expect=201):
        return self.call(method, f"/topics/{quote(key, safe='')}/{what}", body, expect=expect)


class Background:
    """Something that goes on at the side; its outcome can be waited for."""

    def __init__(self, work):
        self.outcome, self.error, self.at = None, None, None
        self.thread = threading.Thread(target=self._run, args=(work,), daemon=True)
        self.thread.start()

    def _run(self, work):
        try:
            self.outcome = work()
        except Exception as error:
            self.error = error
        self.at = time.monotonic()

    def done(self):
        return not self.thread.is_alive()

    def result(self):
        self.thread.join(PATIENCE)
        check(self.done(), "waited in vain: something at the side does not end")
        if self.error is not None:
            raise self.error
        return self.outcome


class Parity:
    """The client and the gateway, on one database."""

    def __init__(self, database, gateway):
        set_json_loads(loads)
        self.url = database
        where = conninfo_to_dict(database)
        # PGMQ was installed by the gateway, without an extension.
        self.client = PGMQueue(
            conn_string=None,
            host=where.get("host", "localhost"),
            port=str(where.get("port", 5432)),
            database=where.get("dbname", "postgres"),
            username=where.get("user", "postgres"),
            password=where.get("password", "postgres"),
            init_extension=False,
        )
        self.gateway = Gateway(gateway)
        # So that another run on the same database works too.
        self.run = secrets.token_hex(2)
        self.made = 0
        self.name = "queue"

    def fresh(self):
        """A name for a queue of the step's own."""
        self.made += 1
        return f"{self.name}_{self.run}_{self.made}"

    def queue(self):
        """A queue of the step's own, made by the client."""
        name = self.fresh()
        self.client.create_queue(name)
        return name

    def connect(self):
        """A connection for SQL of the step's own; each statement by itself."""
        return psycopg.connect(self.url, autocommit=True)

    def value(self, sql, *parameters):
        """One value."""
        with self.connect() as connection:
            return connection.execute(sql, parameters).fetchone()[0]

    def waiting(self, queue, **parameters):
        """An HTTP client that waits for messages; it stands in line when this returns."""
        ahead = self.gateway.metrics(queue)["waiters"]
        receive = Background(lambda: self.gateway.receive(queue, wait=20, **parameters))
        in_line = lambda: receive.done() or self.gateway.metrics(queue)["waiters"] > ahead
        eventually("the HTTP client stands in line", in_line)
        return receive

    def polling(self, call):
        """A call of the client that polls; it is under way when this returns."""
        poll = Background(call)
        running = (
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
            "AND state = 'active' AND pid <> pg_backend_pid() AND query LIKE %s"
        )
        eventually("the client polls", lambda: poll.done() or self.value(running, "%_with_poll(%"))
        return poll
