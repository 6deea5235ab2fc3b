"""A Ray cluster of several raylets with Serve's REST API, and load on the application that runs there."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import secrets
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from support import waiting
from support.redis_deployments import free_port

NODES = Path(__file__).with_name("ray_nodes.py")
APP = "aloraserve"
START_S = 120.0

wait_until = functools.partial(waiting.wait_until, within_s=START_S)
"""Waits for a state of the cluster."""


class ServeCluster:
    """Serve's REST API of a cluster.

    Args:
        address: of its dashboard.
        token: that it asks for.

    Attributes:
        raylets: process ids of those whose nodes engines run on.
    """

    def __init__(self, address: str, token: str, raylets: list[int]) -> None:
        self.raylets = raylets
        self._url = f"{address}/api/serve/applications/"
        self._headers = {"Authorization": f"Bearer {token}"}

    def deploy(self, arguments: dict[str, Any]) -> None:
        """Deploy the application, or other arguments of it."""
        gateways = {"name": "gateway", "ray_actor_options": {"num_cpus": 0, "resources": {"gateways": 1}}}
        application = {
            "name": APP,
            "route_prefix": None,
            "import_path": "aloraserve_services.app:build",
            "args": arguments,
            "deployments": [gateways],
        }
        config = {"proxy_location": "Disabled", "applications": [application]}
        answer = httpx.put(self._url, json=config, headers=self._headers, timeout=60, trust_env=False)
        assert answer.status_code == 200, answer.text

    def application(self) -> dict[str, Any]:
        """Return what Serve says of the application."""
        answer = httpx.get(self._url, headers=self._headers, timeout=60, trust_env=False)
        found: dict[str, Any] = answer.json()["applications"].get(APP, {})
        return found

    def replicas(self, deployment: str, state: str = "RUNNING") -> dict[str, int]:
        """Return the process ids of a deployment's replicas, by their ids."""
        found = self.application().get("deployments", {}).get(deployment, {}).get("replicas", [])
        return {replica["replica_id"]: replica["pid"] for replica in found if replica["state"] == state}

    def wait_for(self, status: str) -> dict[str, Any]:
        """Wait until the application has a status."""
        wait_until(lambda: self.application().get("status") == status, status)
        return self.application()


@contextlib.contextmanager
def serve_cluster(workers: int, **environment: str) -> Iterator[ServeCluster]:
    """Run a cluster with so many nodes for engines, until the context ends.

    Args:
        workers: nodes beside the head.
        environment: more variables of its processes.
    """
    port, token = free_port(), secrets.token_hex(32)
    variables = {
        **os.environ,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": token,
        "RAY_USAGE_STATS_ENABLED": "0",
        # Servers of this machine alone, at the address that they are given.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
        "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
        "HF_HUB_OFFLINE": "1",
        **environment,
    }
    command = [sys.executable, str(NODES), str(port), str(workers)]
    head = subprocess.Popen(
        command,
        env=variables,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert head.stdout is not None
        said = next((line for line in head.stdout if '"ready"' in line), None)
        assert said, "Ray did not start"
        yield ServeCluster(f"http://127.0.0.1:{port}", token, json.loads(said)["raylets"])
    finally:
        assert head.stdin is not None
        head.stdin.close()
        head.wait(60)
        assert head.stdout is not None
        head.stdout.close()


@dataclass
class Streams:
    """What became of streams that clients read.

    Attributes:
        whole: how many ended as they should.
        cut: what those that began and did not had last.
        failed: what those that did not begin had.
    """

    whole: int = 0
    cut: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


@contextlib.contextmanager
def streaming(url: str, count: int, tokens: int) -> Iterator[Streams]:
    """Have so many clients stream one answer after the other while the context lasts; all of them end before it does.

    Args:
        url: of the platform.
        count: of the clients.
        tokens: of each answer.
    """
    streams, over, lock = Streams(), threading.Event(), threading.Lock()

    def client(number: int) -> None:
        body = {"model": "SmolLM2-135M-Instruct", "max_tokens": tokens, "stream": True, "ignore_eos": True}
        turn = 0
        while not over.is_set():
            turn += 1
            prompt = [100 + number] * 64 + [1000 + turn] * 32
            outcome = _stream(url, body | {"prompt": prompt})
            with lock:
                if outcome == "":
                    streams.whole += 1
                elif outcome.startswith("cut"):
                    streams.cut.append(outcome)
                else:
                    streams.failed.append(outcome)

    threads = [threading.Thread(target=client, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield streams
    finally:
        over.set()
        for thread in threads:
            thread.join(120)


def _stream(url: str, body: dict[str, Any]) -> str:
    """Return what is wrong with an answer, an empty string if nothing is."""
    begun, last = False, ""
    try:
        with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=120, trust_env=False) as answer:
            if answer.status_code != 200:
                return f"{answer.status_code}: {answer.read().decode()[:300]}"
            for line in answer.iter_lines():
                begun = begun or line.startswith("data:")
                last = line or last
                if '"error"' in line:
                    return f"cut: {line[:300]}"
    except httpx.HTTPError as error:
        return f"{'cut' if begun else 'not begun'}: {error!r}"
    return "" if last == "data: [DONE]" else f"cut: {last[:300]}"
