"""Let replicas of a simulated fleet fail in each way while clients call: ``faulty_fleet.py STATE ADAPTERS PORT OUT``.

A process of its own: only the one that started Serve has a handle of the engines, and HTTP has no way to a fault.
"""

from __future__ import annotations

import json
import random
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx

from aloraserve.settings import Settings
from aloraserve_services.engine.simulated.faults import POISON
from aloraserve_services.local.deployment import replica_ids
from aloraserve_services.local.platform import local_platform

REPLICAS, CLIENTS, FAULT_S, STALL_S = 4, 6, 3.0, 3.0
FAULTS = (
    "partition",
    "hang-events",
    "drop-events",
    "lose-events",
    "duplicate-events",
    "reorder-events",
    "poison",
    "hang",
    "die",
)

ENDS = ("hang", "die")
"""Nobody heals these: the replica is replaced, and its calls have to be answered all the same."""


class Clients:
    """Conversations that go on until they are told to stop, each turn a base call and an intrinsic.

    Args:
        http: the client.
        base: the base model's name.
    """

    def __init__(self, http: httpx.Client, base: str) -> None:
        self._http = http
        self._base = base
        self._stop = threading.Event()
        self.answered = 0
        self.failed: list[str] = []

    def run(self, seconds: float, during: Any) -> None:
        """Converse for a while and before it ends do something else."""
        self._stop.clear()
        with ThreadPoolExecutor(CLIENTS) as pool:
            conversations = [pool.submit(self._converse) for _ in range(CLIENTS)]
            try:
                during()
                self._stop.wait(seconds)
            finally:
                self._stop.set()
            for conversation in conversations:
                conversation.result()

    def reuses(self) -> bool:
        """Whether an intrinsic finds what the base model has just computed for a new conversation."""
        prompt = [random.randrange(1000, 40_000) for _ in range(640)]
        self._call(self._base, prompt)
        return self._call("safety", prompt) >= 600

    def _converse(self) -> None:
        prompt: list[int] = []
        while not self._stop.is_set():
            prompt = [*prompt[-4000:], *(random.randrange(1000, 40_000) for _ in range(300))]
            for model in (self._base, "safety"):
                self._call(model, prompt)

    def _call(self, model: str, prompt: list[int]) -> int:
        body = {"model": model, "prompt": prompt, "max_tokens": 4, "temperature": 0}
        try:
            reply = self._http.post("/v1/completions", json=body)
        except httpx.HTTPError as error:
            self.failed.append(repr(error)[:200])
            return 0
        if reply.status_code != 200:
            self.failed.append(f"{reply.status_code} {reply.text[:200]}")
            return 0
        self.answered += 1
        return int(reply.headers["x-aloraserve-cached-tokens"])

    def poison(self) -> tuple[int, int]:
        """Send what ends engines, and again; return both statuses."""
        body = {"model": self._base, "prompt": [POISON, *range(1000, 1064)], "max_tokens": 4}
        first, again = (self._http.post("/v1/completions", json=body) for _ in range(2))
        return first.status_code, again.status_code

    def replicas(self) -> int:
        """Return how many the directory has."""
        return len(self._http.get("/v1/replicas").json()["replicas"])


def inject(handle: Any, fault: str, replica: str) -> None:
    """Have a replica fail, or heal it."""
    # Who dies does not answer.
    with suppress(Exception):
        handle.remote(fault, rank=[replica]).result(timeout_s=10)


def play(handle: Any, clients: Clients, fault: str) -> dict[str, Any]:
    """Let one replica fail for a while; return what the clients met, and when reuse was right again."""
    victim = replica_ids()[0]
    before, clients.failed = clients.answered, []

    def fail() -> None:
        inject(handle, fault, victim)
        time.sleep(FAULT_S)
        if fault not in ENDS:
            inject(handle, "heal", victim)

    clients.run(0.5, fail)
    # The last one waits for all that were lost.
    while fault in ENDS and (victim in replica_ids() or (fault == FAULTS[-1] and len(replica_ids()) < REPLICAS)):
        time.sleep(0.2)
    started = time.monotonic()
    while not all(clients.reuses() for _ in range(2 * REPLICAS)) and time.monotonic() < started + 60:
        pass
    right_after_s = time.monotonic() - started
    return {"answered": clients.answered - before, "failed": clients.failed, "right_after_s": right_after_s}


def poison(handle: Any, clients: Clients) -> dict[str, Any]:
    """Send a request that ends engines; return what became of it, of the engines, and of other clients' calls."""
    before, clients.failed, found = clients.answered, [], {}
    for replica in replica_ids():
        inject(handle, "poison", replica)

    def send() -> None:
        found["statuses"] = clients.poison()
        deadline = time.monotonic() + 20
        counts = [clients.replicas()]
        # Those that ended leave at once, and are replaced some seconds later.
        while min(counts) > REPLICAS - 2 and time.monotonic() < deadline:
            time.sleep(0.1)
            counts.append(clients.replicas())
        time.sleep(1)
        found["replicas"] = min(*counts, clients.replicas())

    clients.run(0.5, send)
    while len(replica_ids()) < REPLICAS or clients.replicas() < REPLICAS:
        time.sleep(0.2)
    for replica in replica_ids():
        inject(handle, "heal", replica)
    return {**found, "answered": clients.answered - before, "failed": clients.failed, "right_after_s": 0.0}


def main(state_dir: str, adapters_dir: str, port: str, out: str) -> None:
    """Play every fault and write what happened."""
    settings = Settings(
        engine="simulated",
        replicas=REPLICAS,
        port=int(port),
        state_dir=Path(state_dir),
        adapters_dir=Path(adapters_dir),
        dtype="float32",
        lookup_budget_ms=500,
        engine_stall_s=STALL_S,
    )
    with local_platform(settings, progress=lambda text: print(text, file=sys.stderr)) as platform:
        # Ray reads its environment when it is imported: that is the platform's to set.
        from ray import serve

        from aloraserve_services.app import APP
        from aloraserve_services.gateway.deployment import ENGINE

        handle = serve.get_deployment_handle(ENGINE, APP)
        handle._init(_run_router_in_separate_loop=True)
        handle = handle.options(method_name="fail")
        found: dict[str, Any] = {}
        with httpx.Client(base_url=platform.url, timeout=60, trust_env=False) as http:
            clients = Clients(http, platform.plan.served_name)
            for fault in FAULTS:
                found[fault] = poison(handle, clients) if fault == "poison" else play(handle, clients, fault)
                print(fault, found[fault], file=sys.stderr)
        Path(out).write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
