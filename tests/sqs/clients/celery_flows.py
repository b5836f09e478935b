"""Celery with its SQS transport: a worker runs tasks, retries, is killed, and its task comes back."""

import importlib.metadata
import sys
import time

from celery_tasks import add, at_most_once_done, fail_twice
from workers import Worker, eventually, noted, waiting

print("client: Celery", importlib.metadata.version("celery"), "kombu", importlib.metadata.version("kombu"))


def worker():
    return Worker(sys.executable, "-m", "celery", "-A", "celery_tasks", "worker", "--concurrency=2", "--loglevel=INFO",
                  "--without-gossip", "--without-mingle")


for number in range(30):
    add.delay(number, 1)
with worker() as first:
    eventually("all are added", lambda: len(noted("add")) >= 30)
    assert sorted(map(int, noted("add"))) == list(range(1, 31)), noted("add")
    print("ok: a worker runs tasks")
    fail_twice.delay()
    begun = time.monotonic()
    add.apply_async((100, 0), countdown=3)
    eventually("it is retried", lambda: noted("fail_twice") == ["0", "1", "2"])
    eventually("it is added later", lambda: "100" in noted("add"))
    assert time.monotonic() - begun >= 3
    eventually("nothing is left", lambda: waiting("celery-Jobs") == 0)
    print("ok: retries, and what is for later")
    at_most_once_done.delay()
    eventually("it is at work", lambda: noted("killed"))
    first.kill()
assert waiting("celery-Jobs") == 1
with worker():
    eventually("it came back", lambda: noted("came_back"))
    eventually("it is done", lambda: waiting("celery-Jobs") == 0)
    assert len(noted("killed")) == 2
    print("ok: what a killed worker had comes back")
