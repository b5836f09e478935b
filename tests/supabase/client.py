"""supabase-py on a gateway: `client.py <url> <key>`. Fails where an answer is another than the platform's."""

import platform
import sys
from importlib.metadata import version

from postgrest.exceptions import APIError
from supabase import create_client

url, key = sys.argv[1:]
print(f"supabase-py {version('supabase')} on Python {platform.python_version()}")
queues = create_client(url, key).schema("pgmq_public")
QUEUE = "py"


def call(function, **arguments):
    return queues.rpc(function, {"queue_name": QUEUE, **arguments})


def data(function, **arguments):
    return call(function, **arguments).execute().data


def refused(request, code):
    try:
        request.execute()
    except APIError as error:
        assert error.code == code, error
        assert error.message, error
    else:
        raise AssertionError(f"{code} was expected")


assert data("send", message={"a": 1}) == [1]
assert data("send_batch", messages=[{"b": 2}, "c"], sleep_seconds=0) == [2, 3]
(read,) = data("read", sleep_seconds=60, n=1)
assert (read["msg_id"], read["read_ct"], read["message"], read["headers"]) == (1, 1, {"a": 1}, None)
assert data("archive", message_id=1) is True
assert data("archive", message_id=1) is False
(popped,) = data("pop")
assert popped["msg_id"] == 2
assert data("delete", message_id=3) is True
assert data("delete", message_id=3) is False
print("ok: the six functions")

assert data("pop") == []
refused(call("pop", x=1), "PGRST202")
refused(call("read", sleep_seconds="x", n=1), "22P02")
refused(queues.rpc("pop", {"queue_name": "gone"}), "42P01")
refused(queues.rpc("pop", {"queue_name": QUEUE}, get=True), "25006")
refused(create_client(url, "nobody").schema("pgmq_public").rpc("pop", {"queue_name": QUEUE}), "PGRST301")
refused(create_client(url, key).schema("elsewhere").rpc("pop", {"queue_name": QUEUE}), "PGRST106")
print("ok: errors")
