"""Workers of task queues: started, killed, and what they did, which they write into files."""

import os
import pathlib
import signal
import subprocess
import tempfile
import time

# Where tasks write what they do: a file for each, a line for each time.
DIRECTORY = pathlib.Path(os.environ.setdefault("TASKS_DIRECTORY", tempfile.mkdtemp()))
HERE = pathlib.Path(__file__).parent


def note(name, line=""):
    """Says that a task was here."""
    with open(DIRECTORY / name, "a", encoding="utf-8") as file:
        file.write(f"{line}\n")


def noted(name):
    """What was said under a name."""
    path = DIRECTORY / name
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def eventually(what, condition, seconds=60):
    """Waits until something is so."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain: {what}"
        time.sleep(0.05)


class Worker:
    """A worker with all of its processes."""

    def __init__(self, *command):
        # What it says goes to a file, which is shown where a test fails.
        self.log = open(DIRECTORY / "worker.log", "ab")
        self.process = subprocess.Popen(
            command, cwd=HERE, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, start_new_session=True)

    def __enter__(self):
        return self

    def kill(self):
        """Ends all of it at once, as a machine does that fails."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def __exit__(self, failure, *_):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                pass
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.log.close()
        if failure:
            print((DIRECTORY / "worker.log").read_text(encoding="utf-8")[-8000:])


def waiting(queue):
    """How many messages a queue has, in flight or not."""
    import boto3
    sqs = boto3.client("sqs")
    names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible",
             "ApproximateNumberOfMessagesDelayed"]
    url = sqs.get_queue_url(QueueName=queue)["QueueUrl"]
    attributes = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
    return sum(int(attributes[name]) for name in names)
