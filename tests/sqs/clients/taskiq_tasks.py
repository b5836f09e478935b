"""Tasks of taskiq on the gateway."""

import asyncio
import os

from taskiq import Context, SimpleRetryMiddleware, TaskiqDepends
from taskiq_aio_sqs import SQSBroker

from workers import note, noted

broker = SQSBroker("taskiq-Jobs", endpoint_url=os.environ["AWS_ENDPOINT_URL_SQS"], visibility_timeout=5,
                   wait_time_seconds=5, max_number_of_messages=10, enable_heartbeat=True)
broker = broker.with_middlewares(SimpleRetryMiddleware())


@broker.task
async def add(x: int, y: int) -> None:
    note("add", x + y)


@broker.task(retry_on_error=True, max_retries=3)
async def fail_twice(context: Context = TaskiqDepends()) -> None:
    note("fail_twice", context.message.labels.get("_retries", 0))
    if len(noted("fail_twice")) < 3:
        raise RuntimeError("not yet")


@broker.task
async def slow() -> None:
    """Takes longer than its message is hidden, but for the heartbeat."""
    note("slow")
    await asyncio.sleep(12)
    note("slow_done")


@broker.task
async def at_most_once_done() -> None:
    """Goes on until it is killed; the next time it ends at once."""
    note("killed")
    while len(noted("killed")) < 2:
        await asyncio.sleep(0.1)
    note("came_back")
