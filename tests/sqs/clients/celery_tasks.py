"""Tasks of Celery on the gateway."""

import os
import time
from urllib.parse import quote, urlsplit

from celery import Celery

from workers import note, noted

gateway = urlsplit(os.environ["AWS_ENDPOINT_URL_SQS"]).netloc
key, secret = (quote(os.environ[name], safe="") for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"))
app = Celery("tasks", broker=f"sqs://{key}:{secret}@{gateway}//")
app.conf.update(
    broker_transport_options={"region": "us-east-1", "visibility_timeout": 5, "wait_time_seconds": 5, "polling_interval": 0.2},
    task_default_queue="celery-Jobs",
    task_acks_late=True,
    worker_prefetch_multiplier=1,
    worker_enable_remote_control=False,
)


@app.task
def add(x, y):
    note("add", x + y)


@app.task(bind=True, max_retries=5)
def fail_twice(self):
    note("fail_twice", self.request.retries)
    if self.request.retries < 2:
        raise self.retry(countdown=1)


@app.task
def at_most_once_done():
    """Goes on until it is killed; the next time it ends at once."""
    note("killed")
    while len(noted("killed")) < 2:
        time.sleep(0.1)
    note("came_back")
