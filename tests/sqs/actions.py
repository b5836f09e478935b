"""Does every action of the service with what it can give, and checks what botocore makes of the answers. The version
of botocore decides which protocol is spoken. The gateway and a key are in the variables that every SDK reads."""

import json
import os
import time

import boto3
import botocore
from botocore.config import Config

# Older versions do not look at the variable.
sqs = boto3.client("sqs", endpoint_url=os.environ["AWS_ENDPOINT_URL_SQS"], config=Config(retries={"max_attempts": 1}))
seen = set()
sqs.meta.events.register("after-call.sqs", lambda model, **_: seen.add(model.name))


def attributes(url, *names):
    answer = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=list(names) or ["All"])
    return answer.get("Attributes", {})


def receive(url, **more):
    """What is received within a while, with all there is to know of it."""
    answer = sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10, WaitTimeSeconds=10, AttributeNames=["All"],
                                 MessageAttributeNames=["All"], **more)
    return answer.get("Messages", [])


def until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def queues():
    """Making, finding, describing and dropping."""
    url = sqs.create_queue(QueueName="Jobs", Attributes={"VisibilityTimeout": "60", "DelaySeconds": "0"},
                           tags={"team": "a & b", "stage": ""})["QueueUrl"]
    assert sqs.get_queue_url(QueueName="Jobs")["QueueUrl"] == url
    other = sqs.create_queue(QueueName="jobs-2")["QueueUrl"]
    page = sqs.list_queues(MaxResults=1)
    rest = sqs.list_queues(MaxResults=1, NextToken=page["NextToken"])
    assert page["QueueUrls"] + rest["QueueUrls"] == [url, other]
    assert sqs.list_queues(QueueNamePrefix="none").get("QueueUrls", []) == []
    policy = json.dumps({"Version": "2012-10-17", "Statement": []})
    sqs.set_queue_attributes(QueueUrl=url, Attributes={
        "MaximumMessageSize": "2048", "MessageRetentionPeriod": "3600", "ReceiveMessageWaitTimeSeconds": "1",
        "VisibilityTimeout": "61", "DelaySeconds": "2", "Policy": policy, "KmsMasterKeyId": "k<&>\"\r\n",
        "RedriveAllowPolicy": json.dumps({"redrivePermission": "denyAll"})})
    found = attributes(url)
    expected = {
        "MaximumMessageSize": "2048", "MessageRetentionPeriod": "3600", "ReceiveMessageWaitTimeSeconds": "1",
        "VisibilityTimeout": "61", "DelaySeconds": "2", "Policy": policy, "KmsMasterKeyId": "k<&>\"\r\n",
        "KmsDataKeyReusePeriodSeconds": "300", "SqsManagedSseEnabled": "false",
        "RedriveAllowPolicy": json.dumps({"redrivePermission": "denyAll"}),
        "ApproximateNumberOfMessages": "0", "ApproximateNumberOfMessagesNotVisible": "0",
        "ApproximateNumberOfMessagesDelayed": "0", "QueueArn": "arn:aws:sqs:us-east-1:000000000000:Jobs",
    }
    times = {name: found.pop(name) for name in ("CreatedTimestamp", "LastModifiedTimestamp")}
    assert all(abs(int(value) - time.time()) < 600 for value in times.values()), times
    assert found == expected, found
    assert attributes(url, "RedrivePolicy") == {}
    sqs.set_queue_attributes(QueueUrl=url, Attributes={
        "Policy": "", "KmsMasterKeyId": "", "RedriveAllowPolicy": "", "DelaySeconds": "0"})
    assert not {"Policy", "KmsMasterKeyId", "RedriveAllowPolicy"} & set(attributes(url))
    assert sqs.list_queue_tags(QueueUrl=url)["Tags"] == {"team": "a & b", "stage": ""}
    sqs.tag_queue(QueueUrl=url, Tags={"stage": "test", "<é>": "ü"})
    sqs.untag_queue(QueueUrl=url, TagKeys=["team", "none"])
    assert sqs.list_queue_tags(QueueUrl=url)["Tags"] == {"stage": "test", "<é>": "ü"}
    sqs.add_permission(QueueUrl=url, Label="one", AWSAccountIds=["123456789012"], Actions=["SendMessage"])
    sqs.add_permission(QueueUrl=url, Label="two", AWSAccountIds=["123456789012", "210987654321"],
                       Actions=["SendMessage", "ReceiveMessage"])
    sqs.remove_permission(QueueUrl=url, Label="one")
    [statement] = json.loads(attributes(url, "Policy")["Policy"])["Statement"]
    assert (statement["Sid"], statement["Action"]) == ("two", ["SQS:SendMessage", "SQS:ReceiveMessage"])
    sqs.delete_queue(QueueUrl=other)
    assert sqs.list_queues()["QueueUrls"] == [url]
    return url


def messages(url):
    """Sending, receiving and settling, one by one and in batches."""
    values = {"text": {"DataType": "String.x", "StringValue": "ü <&>\r\n"},
              "number": {"DataType": "Number", "StringValue": "1.50"},
              "bytes": {"DataType": "Binary", "BinaryValue": b"\0\xff\r\n<"}}
    trace = {"AWSTraceHeader": {"DataType": "String", "StringValue": "Root=1"}}
    body = "a <b> & \"c\" 'd' \r\n\t é \U0001f600 ]]> &amp;"
    sent = sqs.send_message(QueueUrl=url, MessageBody=body, MessageAttributes=values, MessageSystemAttributes=trace,
                            MessageGroupId="g")
    [message] = receive(url)
    assert (message["Body"], message["MessageId"]) == (body, sent["MessageId"])
    assert message["MessageAttributes"] == values
    assert message["MD5OfBody"] == sent["MD5OfMessageBody"]
    assert message["MD5OfMessageAttributes"] == sent["MD5OfMessageAttributes"]
    assert "MD5OfMessageSystemAttributes" in sent
    system = message["Attributes"]
    assert (system["AWSTraceHeader"], system["MessageGroupId"], system["ApproximateReceiveCount"]) == ("Root=1", "g", "1")
    assert system["SenderId"] == os.environ["AWS_ACCESS_KEY_ID"]
    handle = message["ReceiptHandle"]
    sqs.change_message_visibility(QueueUrl=url, ReceiptHandle=handle, VisibilityTimeout=0)
    [message] = receive(url)
    assert message["Attributes"]["ApproximateReceiveCount"] == "2"
    sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
    sent = sqs.send_message_batch(QueueUrl=url, Entries=[
        {"Id": "a", "MessageBody": "1", "MessageAttributes": values}, {"Id": "b", "MessageBody": "2", "DelaySeconds": 0},
        {"Id": "c", "MessageBody": "x" * 2049}, {"Id": "d", "MessageBody": "3", "DelaySeconds": 900}])
    assert [entry["Id"] for entry in sent["Successful"]] == ["a", "b", "d"]
    [failed] = sent["Failed"]
    assert (failed["Id"], failed["Code"], failed["SenderFault"]) == ("c", "InvalidParameterValue", True)
    counts = attributes(url, "ApproximateNumberOfMessages", "ApproximateNumberOfMessagesDelayed")
    assert counts == {"ApproximateNumberOfMessages": "2", "ApproximateNumberOfMessagesDelayed": "1"}, counts
    received = receive(url)
    assert sorted(message["Body"] for message in received) == ["1", "2"]
    entries = [{"Id": message["Body"], "ReceiptHandle": message["ReceiptHandle"]} for message in received]
    changed = sqs.change_message_visibility_batch(QueueUrl=url, Entries=[
        {**entries[0], "VisibilityTimeout": 60}, {**entries[1], "VisibilityTimeout": 43201}])
    assert [entry["Id"] for entry in changed["Successful"]] == [entries[0]["Id"]]
    assert [(entry["Id"], entry["Code"]) for entry in changed["Failed"]] == [(entries[1]["Id"], "InvalidParameterValue")]
    deleted = sqs.delete_message_batch(QueueUrl=url, Entries=[*entries, {"Id": "x", "ReceiptHandle": "none"}])
    assert sorted(entry["Id"] for entry in deleted["Successful"]) == ["1", "2"]
    assert [entry["Code"] for entry in deleted["Failed"]] == ["ReceiptHandleIsInvalid"]
    sqs.purge_queue(QueueUrl=url)
    assert attributes(url, "ApproximateNumberOfMessagesDelayed") == {"ApproximateNumberOfMessagesDelayed": "0"}


def fifo():
    """Groups, sequence numbers and deduplication."""
    url = sqs.create_queue(QueueName="turns.fifo", Attributes={"FifoQueue": "true"})["QueueUrl"]
    expected = {"FifoQueue": "true", "ContentBasedDeduplication": "false", "DeduplicationScope": "queue",
                "FifoThroughputLimit": "perQueue"}
    assert attributes(url, *expected) == expected
    sent = sqs.send_message_batch(QueueUrl=url, Entries=[
        {"Id": str(n), "MessageBody": str(n), "MessageGroupId": group, "MessageDeduplicationId": f"d{n // 2}"}
        for n, group in enumerate("aabb")])["Successful"]
    assert sent[0]["SequenceNumber"] == sent[1]["SequenceNumber"] < sent[2]["SequenceNumber"]
    received = {message["Body"]: message["Attributes"] for message in receive(url)}
    assert sorted(received) == ["0", "2"]
    assert received["2"]["SequenceNumber"] == sent[2]["SequenceNumber"]
    assert (received["0"]["MessageGroupId"], received["0"]["MessageDeduplicationId"]) == ("a", "d0")


def dead_letters():
    """Where they go, and how they come back."""
    dead = sqs.create_queue(QueueName="dead")["QueueUrl"]
    arn = attributes(dead, "QueueArn")["QueueArn"]
    policy = {"deadLetterTargetArn": arn, "maxReceiveCount": 1}
    work = sqs.create_queue(QueueName="work", Attributes={
        "VisibilityTimeout": "0", "RedrivePolicy": json.dumps(policy)})["QueueUrl"]
    assert json.loads(attributes(work, "RedrivePolicy")["RedrivePolicy"]) == policy
    assert sqs.list_dead_letter_source_queues(QueueUrl=dead)["queueUrls"] == [work]
    assert sqs.list_dead_letter_source_queues(QueueUrl=work).get("queueUrls", []) == []
    for number in range(5):
        sqs.send_message(QueueUrl=work, MessageBody=str(number))
    count = "ApproximateNumberOfMessages"

    def all_dead():
        sqs.receive_message(QueueUrl=work, MaxNumberOfMessages=10)
        return attributes(dead, count)[count] == "5"
    until(all_dead)
    [message] = sqs.receive_message(QueueUrl=dead, AttributeNames=["All"], VisibilityTimeout=0)["Messages"]
    assert message["Attributes"]["DeadLetterQueueSourceArn"] == attributes(work, "QueueArn")["QueueArn"]
    handle = sqs.start_message_move_task(SourceArn=arn, MaxNumberOfMessagesPerSecond=1)["TaskHandle"]
    [task] = sqs.list_message_move_tasks(SourceArn=arn)["Results"]
    assert (task["Status"], task["TaskHandle"], task["MaxNumberOfMessagesPerSecond"]) == ("RUNNING", handle, 1)
    moved = sqs.cancel_message_move_task(TaskHandle=handle)["ApproximateNumberOfMessagesMoved"]
    assert isinstance(moved, int) and moved < 5, moved
    sqs.start_message_move_task(SourceArn=arn, DestinationArn=attributes(work, "QueueArn")["QueueArn"])
    until(lambda: sqs.list_message_move_tasks(SourceArn=arn)["Results"][0]["Status"] == "COMPLETED")
    tasks = sqs.list_message_move_tasks(SourceArn=arn, MaxResults=10)["Results"]
    assert [task["Status"] for task in tasks] == ["COMPLETED", "CANCELLED"]
    assert tasks[0]["DestinationArn"] == attributes(work, "QueueArn")["QueueArn"]
    assert isinstance(tasks[0]["StartedTimestamp"], int)


messages(queues())
fifo()
dead_letters()
known = set(sqs.meta.service_model.operation_names)
assert seen == known, known - seen
protocol = sqs.meta.service_model.metadata["protocol"]
print(f"actions: {protocol} with botocore {botocore.__version__}: {len(seen)} of {len(known)}")
