"""What the workers in the tests do: a message says how long it takes, and whether it fails."""

import sys
import time

from worker import run


def say(what, body):
    # In one piece, as several threads do.
    print(f"{what} {body['n']}\n", end="", flush=True)


def handle(message):
    body = message["message"]
    say("begun", body)
    time.sleep(body.get("seconds", 0))
    if body.get("exits"):
        sys.exit()
    if body.get("fails"):
        raise ValueError("as the message says")
    say("done", body)


run(handle)
