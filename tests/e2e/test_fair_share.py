"""Tenants of two gateways over one simulated engine: neither takes what is the other's, whichever gateway it uses."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest

from aloraserve.engine_model import calibration

BASE = "SmolLM2-135M-Instruct"
KEYS = {"heavy": "heavy-key-0123456789", "light": "light-key-0123456789"}
RUNNING, QUEUED = 4, 8
SLOTS = 4 * RUNNING + QUEUED
"""Calls that a gateway has in progress: what the replica takes in, and what waits."""
WARM_S, LEAST_ANSWERED = 1.0, 15
"""When counting begins, and how many answers of the lighter tenant it goes on for, however long those take."""
PROMPT_TOKENS = 600
"""Of so long prompts the engine computes few enough a second for clients and gateways to keep it full anywhere."""

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def fleet(start: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("fair")
    small = folder / "small.json"
    times = calibration.load("live-peers").model_dump()
    small.write_text(json.dumps(times | {"max_num_seqs": RUNNING, "max_num_batched_tokens": 1024}))
    config = folder / "fair.yaml"
    settings = {
        "gateways": 2,
        "replicas": 1,
        "max_queued": QUEUED,
        "api_keys": KEYS,
        "limits": {"heavy": {"weight": 4}},
        "calibration": str(small),
    }
    config.write_text(json.dumps(settings))
    with start("--engine", "simulated", "--config", str(config), own_state=True) as running:
        yield running


class Client:
    """A connection, which stays with the gateway that took it."""

    def __init__(self, port: int) -> None:
        self._http = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self._http.connect()
        self.port = int(self._http.sock.getsockname()[1])

    def complete(self, tenant: str, tokens: int) -> int:
        """Ask for a token after a prompt that nobody had before; return the status."""
        prompt = random.choices(range(100, 40_000), k=tokens)
        body = json.dumps({"model": BASE, "prompt": prompt, "max_tokens": 1})
        headers = {"Authorization": f"Bearer {KEYS[tenant]}", "Content-Type": "application/json"}
        self._http.request("POST", "/v1/completions", body, headers)
        answer = self._http.getresponse()
        answer.read()
        return answer.status

    def close(self) -> None:
        self._http.close()


@pytest.fixture
def connect(fleet: Any) -> Iterator[Callable[[int], list[list[Client]]]]:
    """Return what opens at least so many connections to each of the gateways."""
    port = int(fleet.url.rpartition(":")[2])
    with contextlib.ExitStack() as opened:

        def connected(least: int) -> list[list[Client]]:
            gateways = _gateways(fleet)
            clients: list[Client] = []
            for _ in range(40):
                clients += [opened.enter_context(contextlib.closing(Client(port))) for _ in range(least)]
                by_port = {client.port: client for client in clients}
                found = [[by_port[peer] for peer in _peers(process) if peer in by_port] for process in gateways]
                if min(map(len, found)) >= least:
                    return found
            raise AssertionError("all connections went to one gateway")

        yield connected


def _gateways(fleet: Any) -> list[psutil.Process]:
    found = []
    for process in fleet.process.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if "ServeReplica:aloraserve:gateway" in " ".join(process.cmdline()):
                found.append(process)
    assert len(found) == 2
    return found


def _peers(process: psutil.Process) -> list[int]:
    return [one.raddr.port for one in process.net_connections("tcp") if one.raddr]


def test_a_tenant_that_fills_a_gateway_keeps_nobody_out(connect: Callable[[int], list[list[Client]]]) -> None:
    """All of one gateway's slots are one tenant's; the other's first call there is answered, and no call of it lost."""
    clients, _ = connect(SLOTS + 8)
    greedy, other = clients[: SLOTS + 7], clients[-1]
    statuses: list[int] = []
    refused = threading.Event()

    def fill(client: Client) -> None:
        while not done.is_set():
            with contextlib.suppress(OSError, http.client.HTTPException):
                statuses.append(client.complete("heavy", 600))
                if statuses[-1] == 429:
                    refused.set()
                    done.wait(0.2)

    done = threading.Event()
    threads = [threading.Thread(target=fill, args=(client,)) for client in greedy]
    for thread in threads:
        thread.start()
    try:
        assert refused.wait(120), "it takes no more of this tenant"
        answered = [other.complete("light", 50) for _ in range(3)]
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert answered == [200, 200, 200]
    assert set(statuses) == {200, 429}


def test_prefill_is_shared_by_weight_over_two_gateways_of_which_one_tenant_uses_one(
    connect: Callable[[int], list[list[Client]]],
) -> None:
    first, second = connect(13)
    asking = [("heavy", client) for client in first[:10]]
    asking += [("light", client) for client in (*first[10:13], *second[:3])]
    answered: Counter[str] = Counter()
    began = time.monotonic()

    def ask(tenant: str, client: Client) -> None:
        for _ in itertools.count():
            if answered["light"] >= LEAST_ANSWERED:
                return
            assert client.complete(tenant, PROMPT_TOKENS) == 200
            if time.monotonic() - began > WARM_S and answered["light"] < LEAST_ANSWERED:
                answered[tenant] += 1

    threads = [threading.Thread(target=ask, args=asked) for asked in asking]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # By demand, the ratio would be 5 to 3; in turns, 1.
    assert answered["heavy"] / answered["light"] == pytest.approx(4.0, rel=0.25), answered
