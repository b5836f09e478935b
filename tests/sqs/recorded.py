"""Does again what the real service was recorded at, and compares the answers: recorded-answers.json.

The version of botocore decides which protocol is spoken; the cases of the other one are left out.
"""

import argparse
import json
import pathlib
import re
import sys
import time
import uuid

import boto3
import botocore
from botocore.config import Config
from botocore.exceptions import ClientError

import cases

HERE = pathlib.Path(__file__).parent
PLACEHOLDER = re.compile(r"<[a-z-]+(?::\d+)?>")
# What differs between any two places and times.
VARIES = {"CreatedTimestamp", "LastModifiedTimestamp", "SentTimestamp", "StartedTimestamp",
          "ApproximateFirstReceiveTimestamp", "NextToken"}


def differences(recorded, answered, path=""):
    """Where an answer is another than that which was recorded."""
    key = path.rsplit("/", 1)[-1]
    if key in VARIES:
        return [] if answered is not None else [f"{path} is missing"]
    if isinstance(recorded, dict) and isinstance(answered, str):
        try:
            answered = json.loads(answered)
        except ValueError:
            pass
    if isinstance(recorded, dict):
        if not isinstance(answered, dict):
            return [f"{path}: {answered!r} is not {recorded!r}"]
        found = []
        for name in sorted(set(recorded) | set(answered)):
            if name in ("HTTPHeaders", "RequestId", "RetryAttempts"):
                continue
            # Whether botocore shows these depends on its version.
            if name in ("Detail", "QueryErrorCode") or path == "" and name == "message":
                continue
            if name not in recorded:
                found.append(f"{path}/{name} is there: {answered[name]!r}")
            elif name not in answered:
                found.append(f"{path}/{name} is missing")
            else:
                found += differences(recorded[name], answered[name], f"{path}/{name}")
        return found
    if isinstance(recorded, list):
        if not isinstance(answered, list) or len(recorded) != len(answered):
            return [f"{path}: {answered!r} is not {recorded!r}"]
        pairs = enumerate(zip(recorded, answered))
        return [d for i, (r, a) in pairs for d in differences(r, a, f"{path}/{i}")]
    if isinstance(recorded, str):
        answered = str(answered)
        if recorded.startswith("http"):
            recorded, answered = recorded.rsplit("-", 1)[-1], answered.rsplit("-", 1)[-1]
        if recorded.startswith("arn:"):
            return [] if answered.startswith("arn:aws:sqs:") else [f"{path}: {answered!r}"]
        parts = [re.escape(part) for part in PLACEHOLDER.split(recorded)]
        if not re.fullmatch(".+".join(parts), answered, re.S):
            return [f"{path}: {answered!r} is not {recorded!r}"]
        return []
    return [] if recorded == answered else [f"{path}: {answered!r} is not {recorded!r}"]


class Bench:
    """What a case works with."""

    def __init__(self, client):
        self.client = client
        self.prefix = uuid.uuid4().hex[:8]
        self.made = 0

    def queue(self, attributes=None, fifo=False, name=None):
        self.made += 1
        attributes = dict(attributes or {})
        if fifo:
            attributes["FifoQueue"] = "true"
        name = name or f"{self.prefix}-{self.made}" + (".fifo" if fifo else "")
        return self.client.create_queue(QueueName=name, Attributes=attributes)["QueueUrl"]

    def arn(self, url):
        wished = self.client.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])
        return wished["Attributes"]["QueueArn"]

    def fails(self, call):
        """What a call that fails is answered."""
        try:
            return {"unexpected": call()}
        except ClientError as error:
            return error.response

    def until(self, condition):
        """Waits until a condition holds, and returns what it gave."""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            value = condition()
            if value:
                return value
            time.sleep(0.05)
        raise AssertionError("waited in vain")


def run(case, client, recorded):
    name, _, parameters = case.partition("[")
    parameters = re.sub(r"^sqs(_query)?-?", "", parameters.rstrip("]"))
    answers = getattr(cases, name)(Bench(client), parameters)
    found = []
    for label, answer in recorded["answers"].items():
        if label not in answers:
            found.append(f"{label} was not asked for")
        else:
            found += [f"{label}{d}" for d in differences(answer, answers[label])]
    return found


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--gateway", required=True)
    arguments.add_argument("--only", default="")
    arguments = arguments.parse_args()
    client = boto3.client(
        "sqs", endpoint_url=arguments.gateway, region_name="us-east-1", aws_access_key_id="x",
        aws_secret_access_key="y", config=Config(retries={"max_attempts": 1}))
    is_json = client.meta.service_model.metadata["protocol"] == "json"
    recorded = json.loads((HERE / "recorded-answers.json").read_text())
    alike, other = 0, []
    for case, answers in recorded.items():
        of_query = "[sqs_query" in case
        if of_query == is_json or arguments.only not in case:
            continue
        try:
            found = run(case, client, answers)
        except Exception as error:  # noqa: BLE001 - whatever it is, the others go on
            found = [f"{type(error).__name__}: {error}"]
        if found:
            other.append(case)
            print(f"other: {case}", *found, sep="\n    ")
        else:
            alike += 1
    protocol = "JSON" if is_json else "Query"
    print(f"score: {protocol} with botocore {botocore.__version__}: {alike} of {alike + len(other)} alike")
    return 1 if other else 0


if __name__ == "__main__":
    sys.exit(main())
