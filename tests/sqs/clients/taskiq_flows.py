"""taskiq-aio-sqs: a worker runs tasks, retries, is killed, and its task comes back."""

import asyncio
import importlib.metadata
import sys

import boto3

from taskiq_tasks import add, at_most_once_done, broker, fail_twice, slow
from workers import Worker, eventually, noted, waiting

print("client: taskiq-aio-sqs", importlib.metadata.version("taskiq-aio-sqs"), "taskiq", importlib.metadata.version("taskiq"))
boto3.client("sqs").create_queue(QueueName="taskiq-Jobs")


def worker():
    return Worker(sys.executable, "-m", "taskiq", "worker", "taskiq_tasks:broker", "--workers", "1")


async def later(what, condition):
    await asyncio.to_thread(eventually, what, condition)


async def main():
    await broker.startup()
    for number in range(30):
        await add.kiq(number, 1)
    with worker() as first:
        await later("all are added", lambda: len(noted("add")) >= 30)
        assert sorted(map(int, noted("add"))) == list(range(1, 31)), noted("add")
        print("ok: a worker runs tasks")
        await fail_twice.kiq()
        await slow.kiq()
        await later("it is retried", lambda: len(noted("fail_twice")) == 3)
        await later("it is done", lambda: noted("slow_done"))
        await later("nothing is left", lambda: waiting("taskiq-Jobs") == 0)
        assert len(noted("slow")) == 1
        print("ok: retries, and a heartbeat for what takes long")
        await at_most_once_done.kiq()
        await later("it is at work", lambda: noted("killed"))
        first.kill()
    assert waiting("taskiq-Jobs") == 1
    with worker():
        await later("it came back", lambda: noted("came_back"))
        await later("it is done", lambda: waiting("taskiq-Jobs") == 0)
        assert len(noted("killed")) == 2
        print("ok: what a killed worker had comes back")
    await broker.shutdown()


asyncio.run(main())
