#!/usr/bin/env python3
"""PGMQ's own Python client and the gateway, in turn on the same queues.

What one does the other sees, for every public method of the client. Each step works on queues of
its own and prints a line for each method that it takes care of; the first difference ends the run.
"""

import argparse
import inspect
import sys
import traceback
import warnings
from importlib.metadata import version

from pgmq import PGMQueue

import steps_queues  # noqa: F401  The order of these is the order of the steps.
import steps_messages  # noqa: F401
import steps_settle  # noqa: F401
import steps_fifo  # noqa: F401
import steps_topics  # noqa: F401
import steps_notify  # noqa: F401
import steps_transactions  # noqa: F401
from support import COVERED, Parity

# Public methods that do nothing to a queue, each with the reason.
SKIPPED = {"close": "ends the client's own connections"}

# Steps beyond single methods.
MORE = {"transactions"}


def public_methods():
    """Every public method of the client, inherited ones included."""
    return {
        name for name, _ in inspect.getmembers(PGMQueue, callable) if not name.startswith("_")
    }


def uncovered():
    """What is wrong with the list of steps, or None."""
    methods = public_methods()
    missing = methods - COVERED.keys() - SKIPPED.keys()
    unknown = (COVERED.keys() | SKIPPED.keys()) - methods - MORE
    if missing:
        return f"methods of the client without a step: {', '.join(sorted(missing))}"
    if unknown:
        return f"steps for what the client does not have: {', '.join(sorted(unknown))}"
    return None


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--database", required=True, metavar="URL", help="the gateway's database")
    parser.add_argument("--gateway", required=True, metavar="URL", help="where it serves HTTP")
    parser.add_argument("--only", nargs="+", metavar="METHOD", help="leave out all other steps")
    arguments = parser.parse_args()
    # The client warns of how list_queues has changed.
    warnings.simplefilter("ignore", UserWarning)

    if problem := uncovered():
        sys.exit(f"FAILED coverage: {problem}")
    unknown = set(arguments.only or ()) - COVERED.keys()
    if unknown:
        sys.exit(f"no such step: {', '.join(sorted(unknown))}")

    parity = Parity(arguments.database, arguments.gateway)
    print(f"pgmq {version('pgmq')} and {arguments.gateway}", flush=True)
    for method, steps in COVERED.items():
        if arguments.only and method not in arguments.only:
            continue
        for function in steps:
            parity.name = method
            try:
                function(parity)
            except Exception as error:
                traceback.print_exc()
                sys.exit(f"FAILED {method} ({function.__name__}): {error}")
        said = "; ".join(inspect.getdoc(function).splitlines()[0] for function in steps)
        print(f"ok {method}: {said}", flush=True)
    for method, reason in SKIPPED.items():
        print(f"skipped {method}: {reason}")
    if not arguments.only:
        tried = len(public_methods()) - len(SKIPPED)
        print(f"all {tried} methods of the client, and the gateway sees the same")
    parity.client.close()


if __name__ == "__main__":
    main()
