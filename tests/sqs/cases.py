"""The recorded cases, by name. Each takes a bench and the parameters of the case, and returns its answers."""

import json
import time

LONG_ID = "a" * 129
IDS = {"empty": "", "spaces": "group 123", "too_long": "a" * 129}


def batch(ids, **members):
    return [{"Id": i, **members} for i in ids]


def send(b, url, body="msg", **more):
    return b.client.send_message(QueueUrl=url, MessageBody=body, **more)


def receive(b, url, **more):
    return b.client.receive_message(QueueUrl=url, **more)


def handle(received):
    return received["Messages"][0]["ReceiptHandle"]


def attributes(b, url):
    return b.client.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])


def change(b, url, **values):
    b.client.set_queue_attributes(QueueUrl=url, Attributes=values)


# Visibility and deletion.

def test_change_message_visibility_after_visibility_timeout_expiration(b, _):
    url = b.queue({"VisibilityTimeout": "1"})
    send(b, url)
    first = handle(receive(b, url))
    b.until(lambda: receive(b, url, VisibilityTimeout=0).get("Messages"))
    send(b, url)
    first = handle(receive(b, url, VisibilityTimeout=1))
    time.sleep(1.2)
    answer = b.client.change_message_visibility(
        QueueUrl=url, ReceiptHandle=first, VisibilityTimeout=2)
    return {"visibility_timeout_expired": answer}


def test_delete_after_visibility_timeout(b, _):
    url = b.queue({"VisibilityTimeout": "1"})
    send(b, url, "foobar")
    first = handle(receive(b, url))
    time.sleep(1.2)
    b.client.delete_message(QueueUrl=url, ReceiptHandle=first)
    return {"delete_after_timeout_queue_empty": receive(b, url)}


def test_fifo_delete_after_visibility_timeout(b, _):
    url = b.queue({"VisibilityTimeout": "1", "ContentBasedDeduplication": "true"}, fifo=True)
    send(b, url, "foobar", MessageGroupId="1")
    received = receive(b, url)
    time.sleep(1.2)
    failed = b.fails(
        lambda: b.client.delete_message(QueueUrl=url, ReceiptHandle=handle(received)))
    return {"received_sqs_message": received, "delete_after_timeout_fifo": failed}


def test_fifo_delete_after_visibility_timeout_extended(b, _):
    url = b.queue({"VisibilityTimeout": "1", "ContentBasedDeduplication": "true"}, fifo=True)
    send(b, url, "foobar", MessageGroupId="1")
    received = receive(b, url)
    b.client.change_message_visibility(
        QueueUrl=url, ReceiptHandle=handle(received), VisibilityTimeout=30)
    time.sleep(1.2)
    answer = b.client.delete_message(QueueUrl=url, ReceiptHandle=handle(received))
    return {"received_sqs_message": received, "delete_after_timeout_fifo_extended": answer}


# Batches.

def test_change_message_visibility_batch_with_too_large_batch(b, _):
    url = b.queue()
    entries = batch(map(str, range(20)), ReceiptHandle="x", VisibilityTimeout=1)
    return {"error_response": b.fails(
        lambda: b.client.change_message_visibility_batch(QueueUrl=url, Entries=entries))}


def test_delete_message_batch_with_too_large_batch(b, _):
    url = b.queue()
    entries = batch(map(str, range(20)), ReceiptHandle="x")
    return {"error_response": b.fails(
        lambda: b.client.delete_message_batch(QueueUrl=url, Entries=entries))}


def test_delete_message_batch_invalid_msg_id(b, wrong):
    url = b.queue()
    send(b, url)
    entries = batch([wrong], ReceiptHandle=handle(receive(b, url)))
    return {"error_response": b.fails(
        lambda: b.client.delete_message_batch(QueueUrl=url, Entries=entries))}


def send_batch(b, url, entries):
    return b.fails(lambda: b.client.send_message_batch(QueueUrl=url, Entries=entries))


def test_too_many_entries_in_batch_request(b, _):
    entries = batch(map(str, range(20)), MessageBody="x")
    return {"test_too_many_entries_in_batch_request": send_batch(b, b.queue(), entries)}


def test_invalid_batch_id(b, _):
    return {"test_invalid_batch_id": send_batch(b, b.queue(), batch(["message:0"], MessageBody="x"))}


def test_send_batch_missing_deduplication_id_for_fifo_queue(b, _):
    entries = [{"Id": "1", "MessageBody": "a", "MessageGroupId": "g", "MessageDeduplicationId": "d"},
               {"Id": "2", "MessageBody": "b", "MessageGroupId": "g"}]
    return {"test_missing_deduplication_id_for_fifo_queue": send_batch(b, b.queue(fifo=True), entries)}


def test_send_batch_missing_message_group_id_for_fifo_queue(b, _):
    entries = batch(["1"], MessageBody="a", MessageDeduplicationId="d")
    return {"test_missing_message_group_id_for_fifo_queue": send_batch(b, b.queue(fifo=True), entries)}


def test_send_message_batch_with_oversized_contents(b, _):
    entries = [{"Id": "1", "MessageBody": "a" * 1048476}, {"Id": "2", "MessageBody": "b" * 101}]
    return {"send_oversized_message_batch": send_batch(b, b.queue(), entries)}


# Attributes of queues.

def test_create_and_update_queue_attributes(b, _):
    url = b.queue({"MessageRetentionPeriod": "604800", "ReceiveMessageWaitTimeSeconds": "10",
                   "VisibilityTimeout": "20"})
    before = attributes(b, url)
    change(b, url, MaximumMessageSize="2048", VisibilityTimeout="69", DelaySeconds="420")
    return {"get_queue_attributes": before, "get_updated_queue_attributes": attributes(b, url)}


def test_create_standard_queue_with_fifo_attribute_raises_error(b, _):
    answers = {}
    for label, name, value in [("content-based-deduplication", "ContentBasedDeduplication", "false"),
                               ("deduplication-scope", "DeduplicationScope", "queue"),
                               ("throughput-limit", "FifoThroughputLimit", "perQueue"),
                               ("fifo-queue", "FifoQueue", "false")]:
        answers[f"invalid-attribute-{label}"] = b.fails(lambda: b.queue({name: value}))
    return answers


def test_set_unsupported_attribute_fifo(b, _):
    standard, fifo = b.queue(), b.queue(fifo=True)
    one = b.fails(lambda: change(b, standard, FifoQueue="true"))
    change(b, fifo, FifoQueue="true")
    return {"invalid-attr-name-1": one,
            "invalid-attr-name-2": b.fails(lambda: change(b, fifo, FifoQueue="false"))}


def test_set_unsupported_attribute_standard(b, _):
    url = b.queue()
    return {"invalid-attr-name-1": b.fails(lambda: change(b, url, FifoQueue="true")),
            "invalid-attr-name-2": b.fails(lambda: change(b, url, FifoQueue="false"))}


def test_set_queue_attributes_default_values(b, _):
    url = b.queue()
    before = attributes(b, url)
    change(b, url, KmsMasterKeyId="testKeyId", KmsDataKeyReusePeriodSeconds="6000")
    updated = attributes(b, url)
    change(b, url, DelaySeconds="0", MaximumMessageSize="1048576", MessageRetentionPeriod="345600",
           ReceiveMessageWaitTimeSeconds="0", VisibilityTimeout="30", KmsMasterKeyId="", Policy="",
           KmsDataKeyReusePeriodSeconds="300", RedrivePolicy="")
    return {"get-queue-attributes-initial-values": before, "get-queue-attributes-after-update": updated,
            "get-queue-attributes-after-set-to-defaults": attributes(b, url)}


def test_sse_kms_and_sqs_are_mutually_exclusive(b, _):
    url = b.queue({"SqsManagedSseEnabled": "true"})
    try:
        change(b, url, KmsMasterKeyId="testKeyId", SqsManagedSseEnabled="true")
    except Exception as error:
        return {"error": str(error)}
    return {"error": "none"}


def test_fifo_set_content_based_deduplication_strategy(b, _):
    url = b.queue({"ContentBasedDeduplication": "true"}, fifo=True)
    before = attributes(b, url)
    change(b, url, ContentBasedDeduplication="false")
    return {"before-update": before, "after-update": attributes(b, url)}


def test_list_queues_pagination(b, _):
    prefix = f"{b.prefix}-test-queue"
    for number in range(10):
        b.queue(name=f"{prefix}-{number}")
    two = b.client.list_queues(QueueNamePrefix=prefix, MaxResults=2)
    rest = b.client.list_queues(QueueNamePrefix=prefix, MaxResults=8, NextToken=two["NextToken"])
    return {"list_all": b.client.list_queues(QueueNamePrefix=prefix), "list_two_max": two,
            "list_remaining": rest}


def test_successive_purge_calls_fail(b, _):
    url = b.queue()
    b.client.purge_queue(QueueUrl=url)
    return {"purge_queue_error": b.fails(lambda: b.client.purge_queue(QueueUrl=url))}


def test_tag_untag_queue(b, _):
    url, answers = b.queue(), {}
    b.client.tag_queue(QueueUrl=url, Tags={"tag1": "value1", "tag2": "value2", "tag3": ""})
    answers["get-tag-1"] = b.client.list_queue_tags(QueueUrl=url)
    b.client.untag_queue(QueueUrl=url, TagKeys=["tag1", "tag3"])
    answers["get-tag-2"] = b.client.list_queue_tags(QueueUrl=url)
    b.client.untag_queue(QueueUrl=url, TagKeys=["tag2"])
    answers["get-tag-after-untag"] = b.client.list_queue_tags(QueueUrl=url)
    return answers


# FIFO.

def fifo_scoped(b, scope):
    return b.queue({"DeduplicationScope": scope, "FifoThroughputLimit": "perMessageGroupId"}, fifo=True)


def test_fifo_high_throughput_ordering(b, _):
    url, answers = fifo_scoped(b, "messageGroup"), {}
    for number in ("1", "2"):
        send(b, url, f"Test{number}", MessageGroupId=number, MessageDeduplicationId="1")
        received = receive(b, url)
        answers[f"same-dedup-different-grp-{number}"] = received
        b.client.delete_message(QueueUrl=url, ReceiptHandle=handle(received))
    b.url = url
    return answers


def test_fifo_change_to_regular_throughput_after_creation(b, _):
    answers = test_fifo_high_throughput_ordering(b, _)
    change(b, b.url, DeduplicationScope="queue", FifoThroughputLimit="perQueue")
    answers["set-to-regular-throughput"] = attributes(b, b.url)
    send(b, b.url, "Test3", MessageGroupId="3", MessageDeduplicationId="1")
    answers["same-dedup-different-grp-regular-throughput"] = receive(b, b.url)
    return answers


def deduplicating(b, content_based):
    url = b.queue({"ContentBasedDeduplication": content_based.lower()}, fifo=True)
    more = {} if content_based == "True" else {"MessageDeduplicationId": "d"}
    return url, more


def test_fifo_deduplication_arrives_once_after_delete(b, content_based):
    url, more = deduplicating(b, content_based)
    body = json.dumps({"foo": "bar"})
    send(b, url, body, MessageGroupId="g", **more)
    received = receive(b, url)
    b.client.delete_message(QueueUrl=url, ReceiptHandle=handle(received))
    send(b, url, body, MessageGroupId="g", **more)
    return {"get-messages": received, "get-messages-duplicate": receive(b, url, WaitTimeSeconds=1)}


def test_fifo_deduplication_not_on_message_group_id(b, content_based):
    url, more = deduplicating(b, content_based)
    body = json.dumps({"foo": "bar"})
    send(b, url, body, MessageGroupId="g1", **more)
    send(b, url, body, MessageGroupId="g2", **more)
    return {"get-messages": receive(b, url), "get-dedup-messages": receive(b, url, WaitTimeSeconds=1)}


def test_fifo_empty_message_groups_added_back_to_queue(b, _):
    url = b.queue({"ContentBasedDeduplication": "true"}, fifo=True)
    send(b, url, "Message 1", MessageGroupId="g")
    first = receive(b, url)
    b.client.delete_message(QueueUrl=url, ReceiptHandle=handle(first))
    empty = receive(b, url)
    send(b, url, "Message 2", MessageGroupId="g")
    return {"inital-fifo-receive": first, "empty-fifo-receive": empty,
            "final-fifo-receive": receive(b, url)}


def test_fifo_message_attributes(b, _):
    url = b.queue({"VisibilityTimeout": "0"}, fifo=True)
    sent = send(b, url, "message-body-1", MessageGroupId="group-1", MessageDeduplicationId="dedup-1")
    every = {"AttributeNames": ["All"]}
    return {"send_message": sent, "receive_message_0": receive(b, url, **every),
            "receive_message_1": receive(b, url, **every)}


def test_fifo_queue_send_message_with_delay_seconds_fails(b, _):
    url = b.queue({"ContentBasedDeduplication": "true"}, fifo=True)
    return {"send_message": b.fails(
        lambda: send(b, url, "message-1", MessageGroupId="1", DelaySeconds=2))}


def test_fifo_queue_send_message_with_zero_delay_defaults_to_queue_delay(b, _):
    url = b.queue({"ContentBasedDeduplication": "true", "DelaySeconds": "2"}, fifo=True)
    sent = send(b, url, "message-1", MessageGroupId="1", DelaySeconds=0)
    early = receive(b, url)
    return {"send_message_result": sent, "receive_message_initial_result": early,
            "receive_message_after_delay_result": receive(b, url, WaitTimeSeconds=10)}


def test_message_deduplication_id_invalid(b, which):
    url = b.queue(fifo=True)
    return {"error-response": b.fails(
        lambda: send(b, url, MessageGroupId="g", MessageDeduplicationId=IDS[which]))}


def test_send_message_to_standard_queue_with_invalid_message_group_id(b, which):
    url = b.queue()
    return {"error-response": b.fails(lambda: send(b, url, MessageGroupId=IDS[which]))}


def test_posting_to_fifo_requires_deduplicationid_group_id(b, _):
    url = b.queue(fifo=True)
    group = b.fails(lambda: send(b, url, MessageDeduplicationId="d"))
    deduplication = b.fails(lambda: send(b, url, MessageGroupId="g"))
    return {"missing-parameter": group, "missing-parameter-query": group,
            "invalid-parameter-value": deduplication, "invalid-parameter-value-query": deduplication}


# Messages.

def text(value):
    return {"DataType": "String", "StringValue": value}


def test_receive_message_message_attribute_names_filters(b, _):
    url = b.queue({"VisibilityTimeout": "0"})
    three = {"Help.Me": text("Me"), "Hello": text("There"), "General": text("Kenobi")}
    answers = {"send_message_response": send(b, url, MessageAttributes=three)}
    for label, names in [
        ("empty_filter", []), ("all_name", ["All"]), ("all_wildcard_asterisk", ["*"]),
        ("all_wildcard", [".*"]), ("only_existing", ["Hello", "General"]),
        ("only_non_existing_names", ["Foo", "Bar"]), ("prefix_filter", ["Hel.*"]),
        ("existing_and_non_existing", ["Hello", "Foo"]), ("illegal_name_1", ["AWS.Something"]),
        ("illegal_name_2", ["..Something"]),
    ]:
        received = receive(b, url, MessageAttributeNames=names)
        whole = label in ("empty_filter", "all_name", "illegal_name_1", "illegal_name_2")
        answers[label] = received if whole else received["Messages"][0]
    return answers


def test_receive_message_message_system_attribute_names_filters(b, _):
    url = b.queue({"VisibilityTimeout": "0"})
    send(b, url, MessageAttributes={"Foo": text("Bar")})
    return {
        "all_attributes": receive(b, url, AttributeNames=["All"]),
        "all_system_and_message_attributes": receive(
            b, url, AttributeNames=["All"], MessageAttributeNames=["All"]),
        "single_attribute": receive(b, url, AttributeNames=["SenderId"]),
        "multiple_attributes": receive(b, url, AttributeNames=["SenderId", "SequenceNumber"]),
    }


def test_message_system_attribute_names_with_attribute_names(b, _):
    url = b.queue({"VisibilityTimeout": "0"})
    send(b, url)
    shape = b.client.meta.service_model.operation_model("ReceiveMessage").input_shape
    if "MessageSystemAttributeNames" not in shape.members:
        # This version has no such parameter, so the service saw none.
        same = receive(b, url, AttributeNames=["All"])
        different = receive(b, url, AttributeNames=["SenderId"])
    else:
        same = receive(b, url, AttributeNames=["All"], MessageSystemAttributeNames=["All"])
        different = receive(
            b, url, AttributeNames=["All"], MessageSystemAttributeNames=["SenderId"])
    return {"same_values": same, "different_values": different}


def test_send_empty_message(b, _):
    url = b.queue()
    return {"send_empty_message": b.fails(lambda: send(b, url, ""))}


def test_send_oversized_message(b, _):
    url = b.queue()
    return {"send_oversized_message": b.fails(lambda: send(b, url, "a" * 1048577))}


def test_send_message_with_binary_attributes(b, _):
    url = b.queue()
    trace = b"traceparent\x1e00-774062d6c37081a5a0b9b5b88e30627c-2d2482211f6489da-01"
    send(b, url, "test", MessageAttributes={"attr1": {"DataType": "Binary", "BinaryValue": trace}})
    return {"binary-attrs-msg": receive(b, url, MessageAttributeNames=["All"])}


def test_send_message_with_empty_string_attribute(b, _):
    url = b.queue()
    return {"empty-string-attr": b.fails(
        lambda: send(b, url, MessageAttributes={"ErrorDetails": text("")}))}


def test_send_message_via_queue_url_with_json_protocol(b, _):
    # What was recorded is that the message which was sent there is received, and deleted.
    url = b.queue()
    send(b, url, "x")
    b.client.delete_message(QueueUrl=url, ReceiptHandle=handle(receive(b, url)))
    return {"receive-json-on-queue-url": receive(b, url)}


def test_send_receive_wait_time_seconds(b, _):
    url = b.queue()
    answers = {}
    for label, wait in [("too_large", 21), ("too_small", -1)]:
        answers[f"recieve_message_error_{label}"] = b.fails(lambda: receive(b, url, WaitTimeSeconds=wait))
    for label, more in [("by_default", {}), ("explicit", {"WaitTimeSeconds": 0})]:
        send(b, url, "message")
        received = receive(b, url, **more)
        answers[f"empty_short_poll_{label}_resp"] = received
        b.client.delete_message(QueueUrl=url, ReceiptHandle=handle(received))
    return answers


# Move tasks.

def dead_letters(b, count=2, sources=1):
    """A dead-letter queue with messages in it from each of several sources."""
    dead = b.queue({"VisibilityTimeout": "0"})
    policy = json.dumps({"deadLetterTargetArn": b.arn(dead), "maxReceiveCount": "1"})
    urls = [b.queue({"RedrivePolicy": policy, "VisibilityTimeout": "0"}) for _ in range(sources)]
    for url in urls:
        for number in range(count):
            send(b, url, f"message-{number}")
    wished = ["ApproximateNumberOfMessages"]

    def all_dead():
        for url in urls:
            receive(b, url, MaxNumberOfMessages=10)
        there = b.client.get_queue_attributes(QueueUrl=dead, AttributeNames=wished)
        return int(there["Attributes"][wished[0]]) == count * sources
    b.until(all_dead)
    return dead, urls


def start(b, source, destination=None, rate=None):
    more = {"DestinationArn": destination} if destination else {}
    if rate:
        more["MaxNumberOfMessagesPerSecond"] = rate
    return b.client.start_message_move_task(SourceArn=source, **more)


def listed(b, arn, status=None, moved=0):
    def look():
        tasks = b.client.list_message_move_tasks(SourceArn=arn)
        task = tasks["Results"][0]
        if status in (None, task["Status"]) and task["ApproximateNumberOfMessagesMoved"] >= moved:
            return tasks
        return None
    return b.until(look)


def moved_back(b, sources, count, destination=None):
    dead, urls = dead_letters(b, count, sources)
    arn = b.arn(dead)
    started = start(b, arn, destination)
    return arn, urls, {"start-message-move-task-response": started,
                       "list-message-move-task-response": listed(b, arn, "COMPLETED")}


def test_basic_move_task_workflow(b, _):
    return moved_back(b, 1, 2, b.arn(b.queue()))[2]


def test_move_task_workflow_with_default_destination(b, _):
    arn, urls, answers = moved_back(b, 1, 2)
    return {**answers, "source-arn": arn, "original-source": b.arn(urls[0])}


def test_move_task_workflow_with_multiple_sources_as_default_destination(b, _):
    arn, urls, answers = moved_back(b, 2, 2)
    return {**answers, "source-arn": arn, "original-source-1": b.arn(urls[0]),
            "original-source-2": b.arn(urls[1])}


def test_move_task_with_throughput_limit(b, _):
    dead, _urls = dead_letters(b)
    return {"start-message-move-task-response": start(b, b.arn(dead), b.arn(b.queue()), 1)}


def test_move_task_cancel(b, _):
    dead, _urls = dead_letters(b, 10)
    arn = b.arn(dead)
    task = start(b, arn, b.arn(b.queue()), 1)["TaskHandle"]
    running = listed(b, arn, "RUNNING", 2)
    answer = b.client.cancel_message_move_task(TaskHandle=task)
    after = listed(b, arn, "CANCELLED")
    # How many had been moved by then is a matter of time.
    for tasks in (running, after):
        tasks["Results"][0]["ApproximateNumberOfMessagesMoved"] = 2 if tasks is running else 8
    return {"list-while": running, "cancel": answer, "list-after": after}


def test_move_task_delete_destination_queue_while_running(b, _):
    dead, _urls = dead_letters(b, 10)
    arn, destination = b.arn(dead), b.queue()
    start(b, arn, b.arn(destination), 1)
    listed(b, arn, "RUNNING", 2)
    b.client.delete_queue(QueueUrl=destination)
    failed = listed(b, arn, "FAILED")
    failed["Results"][0]["ApproximateNumberOfMessagesMoved"] = 3
    return {"list": failed}


def test_start_multiple_move_tasks(b, _):
    dead, _urls = dead_letters(b, 10)
    arn, destination = b.arn(dead), b.arn(b.queue())
    start(b, arn, destination, 1)
    return {"error": b.fails(lambda: start(b, arn, destination, 1))}


def test_destination_needs_to_exist(b, _):
    dead, _urls = dead_letters(b)
    arn = b.arn(dead)
    return {"error": b.fails(lambda: start(b, arn, f"{arn}-missing"))}


def cancelled(b, **members):
    import base64
    text = base64.b64encode(json.dumps(members).encode()).decode()
    return {"error": b.fails(lambda: b.client.cancel_message_move_task(TaskHandle=text))}


def test_cancel_with_invalid_task_handle(b, _):
    return {"error": b.fails(lambda: b.client.cancel_message_move_task(TaskHandle="foobared"))}


def test_cancel_with_invalid_source_arn_in_task_handle(b, _):
    return cancelled(b, taskId="x", sourceArn="arn:aws:sqs:us-east-1:000000000000:wrong")


def test_cancel_with_invalid_task_id_in_task_handle(b, _):
    return cancelled(b, taskId="x", sourceArn=b.arn(b.queue()))
