"""dramatiq-sqs: a worker runs actors, retries, is killed, and its message comes back."""

import importlib.metadata
import sys

from dramatiq_tasks import add, at_most_once_done, fail
from workers import Worker, eventually, noted, waiting

print("client: dramatiq-sqs", importlib.metadata.version("dramatiq-sqs"), "dramatiq", importlib.metadata.version("dramatiq"))


def worker():
    return Worker(sys.executable, "-m", "dramatiq", "dramatiq_tasks", "--processes", "1", "--threads", "4")


for number in range(30):
    add.send(number, 1)
add.send_with_options(args=(100, 0), delay=2000)
with worker() as first:
    eventually("all are added", lambda: len(noted("add")) >= 31)
    assert sorted(map(int, noted("add"))) == [*range(1, 31), 100], noted("add")
    eventually("nothing is left", lambda: waiting("dramatiq_default") == 0)
    print("ok: a worker runs actors, now and later")
    fail.send()
    eventually("it is retried", lambda: noted("fail") == ["0", "1", "2"])
    eventually("it is a dead letter", lambda: waiting("dramatiq_default_dlq") == 1)
    eventually("nothing is left", lambda: waiting("dramatiq_default") == 0)
    print("ok: retries and dead letters")
    at_most_once_done.send()
    eventually("it is at work", lambda: noted("killed"))
    first.kill()
assert waiting("dramatiq_default") == 1
with worker():
    eventually("it came back", lambda: noted("came_back"))
    eventually("it is done", lambda: waiting("dramatiq_default") == 0)
    assert len(noted("killed")) == 2
    print("ok: what a killed worker had comes back")
