"""For locust's own command: its web page, its workers, its report beside ours.

    locust -f loadtests/locustfile.py --host http://127.0.0.1:8000 --loadtest-mode closed --loadtest-arm alora

With ``--master`` and ``--worker`` every worker plays the phase with variants of its own; the master writes the report.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

# locust looks for modules beside this file alone.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import gevent
from locust import events
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment
from locust.rpc import Message
from locust.runners import MasterRunner, Runner, WorkerNode, WorkerRunner

from loadtests import report
from loadtests.plan import LoadPlan, Phase, api_key
from loadtests.runner import prepare
from loadtests.samples import Sample, Samples
from loadtests.transport import open_transport
from loadtests.users import USERS, ConversationUser, PoissonUser, SyncUser, TraceUser

__all__ = ["ConversationUser", "PoissonUser", "SyncUser", "TraceUser"]
SAMPLES = Samples()
PLAYED = "loadtest_played"
POLL_S = 0.5
FIXED_COUNTS = {user: user.fixed_count for user in USERS.values()}


@events.init_command_line_parser.add_listener
def add_arguments(parser: LocustArgumentParser) -> None:
    """Add what a phase is made of to locust's options and web page."""
    group = parser.add_argument_group("LoRA against aLoRA")
    group.add_argument("--loadtest-mode", default="closed", choices=list(USERS), help="What users do.")
    group.add_argument("--loadtest-arm", default="alora", help="lora, alora, base or alora-no-router.")
    group.add_argument("--loadtest-length", type=int, default=500, help="Tokens of a conversation's first prompt.")
    group.add_argument("--loadtest-count", type=int, default=20, help="Conversations of each worker.")
    group.add_argument("--loadtest-rate", type=float, default=0.5, help="New conversations per second, for poisson.")
    group.add_argument("--loadtest-seed", type=int, default=0, help="Seed of everything that is random.")
    group.add_argument("--loadtest-grpc", default="", help="host:port: make calls there over gRPC.")
    group.add_argument("--loadtest-out", default="loadtest-report", help="Where the report goes.")


@events.test_start.add_listener
def start(environment: Environment, **_: Any) -> None:
    """Give the users of this process what they play; the user class that is not of the mode has nothing to do."""
    given: Any = environment.parsed_options
    players = max(1, environment.runner.worker_count) if isinstance(environment.runner, MasterRunner) else 1
    for user in environment.user_classes:
        # Again for each start: the mode can be changed on the web page. A master decides what its workers spawn.
        is_played = user is USERS[given.loadtest_mode]
        user.weight = int(is_played)
        user.fixed_count = players * FIXED_COUNTS[user] if is_played else 0
    if isinstance(environment.runner, MasterRunner):
        return
    number = environment.runner.worker_index if isinstance(environment.runner, WorkerRunner) else 0
    phase = Phase(
        f"worker-{max(number, 0)}",
        given.loadtest_mode,
        (given.loadtest_arm,),
        lengths=(given.loadtest_length,),
        count=given.loadtest_count,
        users=max(1, given.num_users or 1),
        rate_per_s=given.loadtest_rate if given.loadtest_mode == "poisson" else 0.0,
    )
    transport = open_transport(environment.host or "", api_key(), given.loadtest_grpc or None)
    prepare(environment, LoadPlan((phase,), given.loadtest_seed), phase, transport, SAMPLES, _finish(environment))


def _finish(environment: Environment) -> Callable[[], object] | None:
    """Return what ends a phase of this process: a worker that quit by itself would keep its last samples."""
    runner = environment.runner
    return (lambda: runner.send_message(PLAYED)) if isinstance(runner, WorkerRunner) else None


@events.init.add_listener
def listen(environment: Environment, runner: Runner | None, **_: Any) -> None:
    """Have a master end the phase once every worker has played it; workers then send what they still have."""
    if not isinstance(runner, MasterRunner):
        return
    played: set[str] = set()
    ending: list[gevent.Greenlet[..., None]] = []

    def note(msg: Message, **_: Any) -> None:
        played.add(msg.node_id)
        if not any(ending) and played >= _ids(runner.clients.spawning, runner.clients.running):
            # By another greenlet: this one is among those that it stops.
            ending[:] = [gevent.spawn(end)]

    def end() -> None:
        # A worker that locust misses may only be busy: it plays on, and is given up by locust after a minute.
        while not played >= _ids(runner.clients.spawning, runner.clients.running, runner.clients.missing):
            gevent.sleep(POLL_S)
        played.clear()
        (runner.stop if environment.web_ui else runner.quit)()

    runner.register_message(PLAYED, note)
    environment.events.test_start.add_listener(lambda **_: played.clear())


def _ids(*groups: Iterable[WorkerNode]) -> set[str]:
    return {worker.id for workers in groups for worker in workers}


@events.report_to_master.add_listener
def send(client_id: str, data: dict[str, Any]) -> None:
    """Send a worker's new samples along with its statistics."""
    data["samples"] = [asdict(sample) for sample in SAMPLES.take()]


@events.worker_report.add_listener
def receive(client_id: str, data: dict[str, Any]) -> None:
    """Keep what a worker sent."""
    for fields in data.get("samples", ()):
        SAMPLES.add(Sample(**fields))


@events.quitting.add_listener
def write(environment: Environment, **_: Any) -> None:
    """Write the report, unless this is a worker or nothing was played."""
    if isinstance(environment.runner, WorkerRunner) or not len(SAMPLES):
        return
    given: Any = environment.parsed_options
    content = report.write(Path(given.loadtest_out), LoadPlan((), given.loadtest_seed), SAMPLES, {"host": "as given"})
    if any(sample.error for sample in SAMPLES):
        environment.process_exit_code = 1
    print(f"report: {Path(given.loadtest_out) / 'report.html'}, {len(content['rows'])} rows")
