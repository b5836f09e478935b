"""Sends, receives with a filter and settles by the client that openapi-python-client makes: GATEWAY URL as argument."""

import json
import sys

from pgmq_gateway_client import Client
from pgmq_gateway_client.api.messages import receive_messages, send_message, settle
from pgmq_gateway_client.api.queues import create_queue, show_queue
from pgmq_gateway_client.models import CreateQueue, Entry, MessageHeaders, NewMessage, QueueKind, SettleBody

client = Client(base_url=sys.argv[1], raise_on_unexpected_status=True)
made = create_queue.sync("python", client=client)
assert made.queue == "python" and made.kind == QueueKind.STANDARD, made
again = create_queue.sync("python", client=client, body=CreateQueue(kind=QueueKind.STANDARD))
assert again.created_at == made.created_at, again
assert show_queue.sync("none", client=client).code == "queue_not_found"

headers = MessageHeaders.from_dict({"trace": {"id": "abc"}, "x-pgmq-group": "g"})
for order in (1, 2):
    body = NewMessage(message={"order": order, "big": 2**53 + 1}, headers=headers)
    sent = send_message.sync("python", client=client, body=body)
    print("python: sent", sent.to_dict())

received = receive_messages.sync(
    "python", client=client, qty=10, vt=60, wait=1, filter_=json.dumps({"order": 2}))
assert len(received.messages) == 1, received
message = received.messages[0]
print("python: received", message.to_dict())
assert message.message["order"] == 2 and message.message["big"] == 2**53 + 1
assert message.headers.to_dict() == headers.to_dict()
assert message.read_ct == 1 and message.vt > message.enqueued_at

entries = [Entry(receipt=message.receipt), Entry(msg_id=99)]
settled = settle.sync("python", client=client, body=SettleBody(delete=entries))
print("python: settled", settled.to_dict())
assert settled.deleted == [message.msg_id]
assert [failed.code for failed in settled.failed] == ["message_not_found"]
