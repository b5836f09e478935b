"""aiobotocore, with the gateway and a key in the variables that every SDK reads."""

import asyncio
import importlib.metadata

from aiobotocore.session import get_session
from botocore.config import Config
from botocore.exceptions import ClientError


async def receive(sqs, url, **more):
    """What is received, with all there is to know of it."""
    answer = await sqs.receive_message(
        QueueUrl=url, MaxNumberOfMessages=10, MessageAttributeNames=["All"],
        MessageSystemAttributeNames=["All"], **more)
    return answer.get("Messages", [])


async def main():
    print("client: aiobotocore", importlib.metadata.version("aiobotocore"))
    config = Config(retries={"max_attempts": 0})
    async with get_session().create_client("sqs", config=config) as sqs:
        url = (await sqs.create_queue(QueueName="aio-Jobs"))["QueueUrl"]
        attributes = {"kind": {"DataType": "String", "StringValue": "ü"},
                      "raw": {"DataType": "Binary", "BinaryValue": b"\0\xff\r\n"}}
        sent = await sqs.send_message(QueueUrl=url, MessageBody="héllo €", MessageAttributes=attributes)
        [message] = await receive(sqs, url, VisibilityTimeout=60)
        assert message["Body"] == "héllo €"
        assert message["MessageId"] == sent["MessageId"]
        assert message["MessageAttributes"] == attributes
        assert message["MD5OfMessageAttributes"] == sent["MD5OfMessageAttributes"]
        await sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
        print("ok: send, receive, delete")

        # Many at the same time, over one client.
        texts = {f"job {number}" for number in range(100)}
        await asyncio.gather(*(sqs.send_message(QueueUrl=url, MessageBody=text) for text in texts))
        received = set()

        async def consume():
            while received != texts:
                messages = await receive(sqs, url, WaitTimeSeconds=1)
                received.update(message["Body"] for message in messages)
                if messages:
                    entries = [{"Id": str(at), "ReceiptHandle": message["ReceiptHandle"]}
                               for at, message in enumerate(messages)]
                    deleted = await sqs.delete_message_batch(QueueUrl=url, Entries=entries)
                    assert len(deleted["Successful"]) == len(messages), deleted

        await asyncio.wait_for(asyncio.gather(*(consume() for _ in range(8))), 60)
        print("ok: many senders and consumers")

        waiting = asyncio.create_task(receive(sqs, url, WaitTimeSeconds=20))
        await sqs.send_message(QueueUrl=url, MessageBody="waited for")
        [message] = await waiting
        assert message["Body"] == "waited for"
        # One that leaves takes nothing along.
        leaving = asyncio.create_task(receive(sqs, url, WaitTimeSeconds=20))
        done, _ = await asyncio.wait([leaving], timeout=0.5)
        assert not done
        leaving.cancel()
        await asyncio.wait([leaving])
        await sqs.send_message(QueueUrl=url, MessageBody="for another")
        [message] = await receive(sqs, url, WaitTimeSeconds=20)
        assert (message["Body"], message["Attributes"]["ApproximateReceiveCount"]) == ("for another", "1")
        print("ok: waiting, and leaving")

        try:
            await sqs.get_queue_url(QueueName="aio-gone")
            raise AssertionError("it is there")
        except sqs.exceptions.QueueDoesNotExist as error:
            assert error.response["Error"]["Code"] == "AWS.SimpleQueueService.NonExistentQueue"
        try:
            await sqs.send_message(QueueUrl=url, MessageBody="x", DelaySeconds=901)
            raise AssertionError("it was taken")
        except ClientError as error:
            assert error.response["Error"]["Code"] == "InvalidParameterValue", error.response
        pages = sqs.get_paginator("list_queues").paginate(QueueNamePrefix="aio-", PaginationConfig={"PageSize": 1})
        assert [url async for page in pages for url in page.get("QueueUrls", [])] == [url]
        await sqs.delete_queue(QueueUrl=url)
        print("ok: errors by their classes, pages")


asyncio.run(main())
