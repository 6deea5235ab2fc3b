"""A master of locust's ends a phase once all workers have played it, also one that it has not heard of for a while."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = """
import gevent
from locust.env import Environment
from locust.rpc import Message
from locust.runners import STATE_MISSING, STATE_RUNNING, WorkerNode

from loadtests.locustfile import PLAYED, listen

environment = Environment()
runner = environment.create_master_runner("127.0.0.1", 0)
listen(environment, runner)
ended = []
runner.quit = lambda: ended.append(sorted(runner.clients))
for name in ("heard", "busy"):
    runner.clients[name] = WorkerNode(name, STATE_RUNNING, heartbeat_liveness=1000)
note, _ = runner.custom_messages[PLAYED]


def shown(after):
    gevent.sleep(2)
    print(after, len(ended))


runner.clients["busy"].state = STATE_MISSING
note(msg=Message(PLAYED, None, "heard"), environment=environment)
shown("one is missing")
runner.clients["busy"].state = STATE_RUNNING
shown("it is back")
note(msg=Message(PLAYED, None, "busy"), environment=environment)
shown("it has played")
runner.clients["busy"].state = STATE_MISSING
note(msg=Message(PLAYED, None, "heard"), environment=environment)
del runner.clients["busy"]
shown("it is given up")
"""


def test_a_worker_that_is_missing_may_only_be_busy() -> None:
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", SCRIPT], cwd=root, capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines() == ["one is missing 0", "it is back 0", "it has played 1", "it is given up 2"], (
        done.stderr
    )
