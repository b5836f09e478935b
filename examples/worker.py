#!/usr/bin/env python3
"""A worker for one queue, with nothing but Python's standard library (3.9 or later).

    GATEWAY=http://localhost:8080 QUEUE=orders python3 worker.py

It waits for messages, works on several at a time, holds on to them while it does, and settles them
together: what was done is deleted, what failed comes back after a pause that grows. SIGTERM and SIGINT
end it as soon as what it has begun is done; what it has not begun goes to others at once.

To have it do something, import `run` and give it a function:

    from worker import run

    run(lambda message: print(message["message"]))
"""

import http.client
import json
import os
import random
import signal
import sys
import threading
import time
import urllib.parse
import urllib.request
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait

GATEWAY = os.environ.get("GATEWAY", "http://localhost:8080").rstrip("/")
QUEUE = os.environ.get("QUEUE", "orders")
KEY = os.environ.get("GATEWAY_KEY")
CONCURRENCY = int(os.environ.get("CONCURRENCY", "10"))
# Seconds for which a message is nobody else's; extended while it is worked on.
LEASE = int(os.environ.get("LEASE", "30"))
WAIT = 20
# What a gateway or a proxy that goes away in the middle can make of a request.
FAILURES = (OSError, http.client.HTTPException, ValueError)


class Stopping(Exception):
    """SIGTERM came while there was nothing to do."""


class Stop:
    """Whether to stop, and whether that may break off what is under way."""

    def __init__(self):
        self.requested = False
        self.may_interrupt = False
        for name in (signal.SIGTERM, signal.SIGINT):
            signal.signal(name, self.request)

    def request(self, *_):
        self.requested = True
        if self.may_interrupt:
            raise Stopping


def call(method, path, body=None, timeout=60):
    """One request; what the gateway answers, or None without a body."""
    headers = {"Content-Type": "application/json", "Prefer": "return=minimal"}
    if KEY:
        headers["Authorization"] = f"Bearer {KEY}"
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{GATEWAY}{path}", data, headers, method=method)
    with urllib.request.urlopen(request, timeout=timeout) as answer:
        text = answer.read()
        return json.loads(text) if text else None


def path(rest=""):
    return f"/queues/{urllib.parse.quote(QUEUE)}/messages{rest}"


def receive(stop):
    """The next messages; waits for the first one. Whoever is told to stop meanwhile leaves: what would
    have been answered stays in the queue."""
    stop.may_interrupt = True
    try:
        if stop.requested:
            raise Stopping
        query = f"?qty={CONCURRENCY}&vt={LEASE}&wait={WAIT}"
        return call("GET", path(query), timeout=WAIT + 30)["messages"]
    finally:
        stop.may_interrupt = False


def extend(message):
    """Has a message for longer. One that is somebody else's by now cannot be helped."""
    receipt = urllib.parse.quote(message["receipt"])
    try:
        # One that hangs leaves time for another try.
        call("PATCH", path(f"/{message['msg_id']}?receipt={receipt}"), {"vt": LEASE}, timeout=LEASE / 3)
    except FAILURES as error:
        print(f"message {message['msg_id']} could not be extended: {error}", file=sys.stderr)


def settle(entries):
    """Says what became of messages, until the gateway has heard it: doing so twice does no harm."""
    for attempt in range(10):
        try:
            answer = call("POST", path("/settle"), entries)
            for failed in answer["failed"]:
                print(f"message {failed['msg_id']}: {failed['detail']}", file=sys.stderr)
            return
        except FAILURES as error:
            print(f"settling failed, trying again: {error}", file=sys.stderr)
            time.sleep(min(2**attempt * 0.1, 5) * random.uniform(0.5, 1))


def work_on(messages, handle, stop, pool, extenders):
    """Works on messages at the same time, and settles those that are through together."""
    futures = {}
    settling = []
    extended = time.monotonic()

    def work(message):
        if stop.requested:
            return {"retry": {"uncounted": True}}
        try:
            handle(message)
            return {"delete": {}}
        except BaseException as error:  # whatever the handler raises, SystemExit too
            print(f"message {message['msg_id']} failed: {error!r}", file=sys.stderr)
            # 1, 2, 4, ... seconds. After `max_receives` deliveries it becomes a dead letter.
            return {"retry": {"delay": min(2 ** (message["read_ct"] - 1), 900)}}

    for message in messages:
        futures[pool.submit(work, message)] = message
    while futures:
        left = max(extended + LEASE / 3 - time.monotonic(), 0)
        done, _ = wait(futures, timeout=left, return_when=FIRST_COMPLETED)
        entries = {"delete": [], "retry": []}
        for future in done:
            receipt = futures.pop(future)["receipt"]
            for action, more in future.result().items():
                entries[action].append({"receipt": receipt, **more})
        if done:
            # Beside the others: they are extended meanwhile.
            settling.append(pool.submit(settle, entries))
        if time.monotonic() >= extended + LEASE / 3:
            extended = time.monotonic()
            for message in futures.values():
                extenders.submit(extend, message)
    wait(settling)


def run(handle):
    """Works until it is told to stop. `handle` gets a message, and raises what speaks against it."""
    stop = Stop()
    failures = 0
    with ThreadPoolExecutor(CONCURRENCY + 1) as pool, ThreadPoolExecutor(CONCURRENCY) as extenders:
        while not stop.requested:
            try:
                messages = receive(stop)
                failures = 0
            except Stopping:
                break
            except FAILURES as error:
                failures += 1
                print(f"receiving failed, trying again: {error}", file=sys.stderr)
                time.sleep(min(2**failures * 0.1, 10) * random.uniform(0.5, 1))
                continue
            work_on(messages, handle, stop, pool, extenders)


if __name__ == "__main__":
    lock = threading.Lock()

    def show(message):
        with lock:
            print(json.dumps(message["message"]), flush=True)

    run(show)
