"""What Schemathesis must know of the gateway beside its OpenAPI document."""

import json
import os
import re
import zlib
from datetime import datetime

import requests
import schemathesis
from hypothesis import strategies as st

# Reasons to refuse a request that its schema allows, because no schema can say them: they are about
# two places at once, about the clock, or about what is in the database.
REASONS = {
    400: [
        # Only the gateway can tell what it signed, and for which message.
        r"`receipt` is not a receipt that was given out here",
        r"`receipt` is for message \d+, not",
        # The clock.
        r"`[^`]*visible_at` must be at most \d+ seconds from now",
        # Other queues than the one in the path.
        r"there is no queue `",
        r"`(to|settings\.dead_letter_queue)` must be another queue than this",
        # The path and the body, or two parameters.
        r"the name of a partitioned queue has no `\.`",
        r"`filter` and `fifo` exclude each other",
        # Two fields of one object.
        r"the body must have `settings` or `fifo`",
        r"`min` must be at most `max`",
        # Bytes, and decimals.
        r"`dead_letter\[\d+\]\.reason` must have at most \d+ bytes",
        r"must be a number from 1 to 100 with at most three decimals",
        # Besides a form, a number of something in it.
        r"`pattern` must have at most \d+ wildcards",
        r"`filter` must have at most \d+ array elements",
        r"as many as `limits.max_bindings_per_queue` allows",
        # Fields that exclude each other, or of which one must be there: a document that says so is one of which
        # no client can be made.
        r"must have either `(msg_id|vt)` or `(receipt|visible_at)`",
        r"`[^`]*delay` and `[^`]*visible_at` exclude each other",
        r"must be one of `send`, `delete`, `archive` and `set_vt`",
        r"`partition`",
        r"`partition.interval` and `partition.retention` must",
        # Three lists together.
        r"at most 1000 entries",
        # JSON that no message can contain, as PostgreSQL cannot store it.
        r"^`filter`:? .*(\\u0000|surrogate pair|131072 digits|written out in full)",
    ],
    # The limit may be the queue's own.
    413: [r"has \d+ bytes; the limit is \d+"],
    # JSON that PostgreSQL cannot store.
    422: [r"\\u0000", r"surrogate pair", r"131072 digits", r"written out in full"],
}


# Queues that the run finds there, so that most requests are about something that is there.
QUEUES = ["fuzz-plain", "fuzz-fifo", "fuzz-dead"]
# Where a name would do harm to what others stand on, or is what a request is about.
OWN_NAMES = {"create_queue", "drop_queue", "change_settings", "purge_queue"}
# What takes a body that may be left out.
OPTIONAL_BODIES = {"create_queue", "redrive", "replay_archive", "settle_and_receive"}
# Deliveries that are not settled yet for all we know: queue, id, receipt.
deliveries = []


def is_valid(case):
    return case.meta is not None and case.meta.generation.mode.is_positive


def operation_id(case):
    return case.operation.definition.raw.get("operationId")


def one_of(choices, value):
    """The same choice for the same value: a seed makes the same run."""
    return choices[zlib.crc32(str(value).encode()) % len(choices)]


def delivery():
    """A message that is delivered to us."""
    if not deliveries:
        for queue in QUEUES:
            url = f"{os.environ['GATEWAY']}/queues/{queue}/messages"
            batch = {"messages": [{"message": n, "delay": 0} for n in range(10)]}
            requests.post(f"{url}/batch", json=batch, timeout=30).raise_for_status()
            received = requests.get(url, {"qty": 10, "vt": 600}, timeout=30).json()["messages"]
            deliveries.extend((queue, m["msg_id"], m["receipt"]) for m in received)
    return deliveries.pop()


@schemathesis.hook
def before_call(context, case, kwargs):
    """Makes most valid requests be about queues and deliveries that are there."""
    # Long enough to be a wait, and no longer.
    wait = str((case.query or {}).get("wait", ""))
    if re.fullmatch("[0-9]{1,2}", wait) and 1 <= int(wait) <= 20:
        case.query["wait"] = 1
    if isinstance(case.body, dict) and isinstance(case.body.get("wait"), (int, float)):
        if 1 <= case.body["wait"] <= 20:
            case.body["wait"] = 1
    # A body that may be left out may be null, too, which the document does not say: another one that is wrong.
    if case.body is None and operation_id(case) in OPTIONAL_BODIES:
        case.body = []
    stateful = case.meta is not None and case.meta.phase.name.value == "stateful"
    if not is_valid(case) or stateful:
        return
    path, body = case.path_parameters or {}, case.body if isinstance(case.body, dict) else {}
    if operation_id(case) not in OWN_NAMES:
        if "queue" in path:
            path["queue"] = one_of([*QUEUES, path["queue"]], path["queue"])
        if "msg_id" in path and int(path["msg_id"]) > 50:
            path["msg_id"] = 1 + int(path["msg_id"]) % 50
    if (case.query or {}).get("receipt"):
        path["queue"], path["msg_id"], case.query["receipt"] = delivery()
    if (body.get("settings") or {}).get("dead_letter_queue"):
        body["settings"]["dead_letter_queue"] = QUEUES[0]
    lists = list(body.values())
    if isinstance(body.get("settle"), dict):
        lists.extend(body["settle"].values())
    for entries in lists:
        for entry in entries if isinstance(entries, list) else []:
            if isinstance(entry, dict):
                choose(entry, *OPERATIONS)
                make_real(entry)
    for about in every_object(body):
        for fields in EITHER:
            choose(about, *fields)


# Fields of which one is to be given, or at most one.
EITHER = [("msg_id", "receipt"), ("vt", "visible_at"), ("visible_at", "delay")]
OPERATIONS = ("send", "delete", "archive", "set_vt")


def every_object(value):
    """What may be an entry, a message or an operation; what is in a message is its sender's."""
    if isinstance(value, dict):
        yield value
        for name, inner in value.items():
            if name not in {"message", "headers", "filter"}:
                yield from every_object(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from every_object(inner)


def choose(about, *fields):
    """Leaves the first that is given of fields that exclude each other."""
    given = [field for field in fields if about.get(field) is not None]
    for field in given[1:]:
        del about[field]


def make_real(entry):
    """An entry of a settle, or an operation of a transaction."""
    for about in [entry, *(value for value in entry.values() if isinstance(value, dict))]:
        if about.get("receipt"):
            queue, _, about["receipt"] = delivery()
            if "queue" in about:
                about["queue"] = queue
        elif "queue" in about:
            about["queue"] = one_of([*QUEUES, *QUEUES, about["queue"]], about["queue"])


@schemathesis.check
def refused_for_a_reason(ctx, response, case):
    """What the document allows is refused only for what a document cannot say."""
    if not is_valid(case) or response.status_code not in REASONS:
        return
    detail = response.json()["detail"]
    known = any(re.search(reason, detail) for reason in REASONS[response.status_code])
    assert known, f"the document allows it, and it is refused: {detail}"


@schemathesis.check
def problems_are_complete(ctx, response, case):
    """Every error is a problem with the request's id, whoever made it."""
    if response.status_code < 400 or case.method == "HEAD":
        return
    kind = response.headers["content-type"]
    assert kind == ["application/problem+json"], f"an error is {kind}"
    body = response.json()
    assert body["status"] == response.status_code, body
    assert [body["instance"]] == response.headers["x-request-id"], body
    assert response.status_code != 405 or response.headers.get("allow"), "405 without Allow"


# Messages that must be there: queue and id.
stored = set()
# What ends no message that was stored before.
HARMLESS = {"browse_archive", "queue_bindings", "bind", "unbind", "peek", "queue_metrics",
            "send_message", "send_batch", "set_visibility", "show_message", "show_queue"}


@schemathesis.check
def messages_stay(ctx, response, case):
    """A message that was stored is there until something ends it."""
    name, queue = operation_id(case), (case.path_parameters or {}).get("queue")
    id = str((case.path_parameters or {}).get("msg_id"))
    if name == "send_message" and response.status_code == 201:
        # What was answered again was stored back then, and may be over.
        if "idempotency-replayed" in response.headers:
            return
        stored.add((queue, str(response.json()["msg_id"])))
    elif name == "show_message" and response.status_code == 404:
        assert (queue, id) not in stored, "the message was stored, and nothing has ended it"
    elif name in {"delete_message", "archive_message"}:
        stored.discard((queue, id))
    elif queue is not None and name not in HARMLESS:
        stored.difference_update([entry for entry in stored if entry[0] == queue])
    elif name == "transact":
        stored.clear()


# Most random times are centuries away and would all be refused for that.
schemathesis.openapi.format("date-time", st.datetimes(
    min_value=datetime(1, 1, 1),
    max_value=datetime.now(),
).map(lambda time: time.isoformat() + "Z"))

# A filter is JSON in a text.
schemathesis.openapi.format("json-object", st.dictionaries(
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8),
    st.none() | st.booleans() | st.integers(-10**6, 10**6) | st.text(max_size=8),
    max_size=3,
).map(json.dumps))
