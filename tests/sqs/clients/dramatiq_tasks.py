"""Actors of dramatiq on the gateway."""

import os
import time

import dramatiq
from dramatiq.middleware import CurrentMessage
from dramatiq_sqs import SQSBroker

from workers import note, noted

broker = SQSBroker(namespace="dramatiq", dead_letter=True, visibility_timeout=5,
                   endpoint_url=os.environ["AWS_ENDPOINT_URL_SQS"])
broker.add_middleware(CurrentMessage())
dramatiq.set_broker(broker)


@dramatiq.actor
def add(x, y):
    note("add", x + y)


@dramatiq.actor(max_retries=2, min_backoff=100, max_backoff=200)
def fail():
    note("fail", CurrentMessage.get_current_message().options.get("retries", 0))
    raise RuntimeError("it cannot be done")


@dramatiq.actor
def at_most_once_done():
    """Goes on until it is killed; the next time it ends at once."""
    note("killed")
    while len(noted("killed")) < 2:
        time.sleep(0.1)
    note("came_back")
