"""What operators do to a platform that has work, on a Ray cluster of several raylets with simulated engines."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.own_valkey import socket_url, valkey_server
from support.redis_deployments import free_port
from support.serve_cluster import ServeCluster, serve_cluster, streaming, wait_until

BASE = "SmolLM2-135M-Instruct"
STREAMS = 16
TOKENS = 40

pytestmark = [pytest.mark.e2e, pytest.mark.ray, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[ServeCluster]:
    with serve_cluster(2, RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S="1") as cluster:
        yield cluster


@pytest.fixture(scope="module")
def redis_urls() -> Iterator[list[str]]:
    with valkey_server() as first, valkey_server() as second:
        yield [socket_url(first), socket_url(second)]


@pytest.fixture(scope="module")
def arguments(redis_urls: list[str], state_dir: Path, model_path: Path) -> dict[str, Any]:
    """A gateway and two engines, both of which may be started beside the old ones."""
    return {
        "host": "127.0.0.1",
        "port": free_port(),
        "redis_url": redis_urls[0],
        "state_dir": str(state_dir),
        "dtype": "float32",
        "engine": "simulated",
        "gateways": 1,
        "replicas": 2,
        "max_surge_percent": 100,
        # A busy machine is not what this is about.
        "lookup_budget_ms": 500,
    }


@pytest.fixture(scope="module")
def url(cluster: ServeCluster, arguments: dict[str, Any]) -> str:
    """Of the deployed platform."""
    cluster.deploy(arguments)
    cluster.wait_for("RUNNING")
    url = f"http://127.0.0.1:{arguments['port']}"
    wait_until(lambda: len(fleet(url)) == 2, "both replicas to be published")
    return url


def fleet(url: str) -> dict[str, str]:
    """Return the engine replicas that the directory knows, and which start of each it is."""
    replicas = httpx.get(f"{url}/v1/replicas", trust_env=False).json()["replicas"]
    return {replica["replica"]: replica["incarnation"].partition(".")[0] for replica in replicas}


def test_calls_of_a_fleet_without_replicas_are_held_until_there_is_one_and_there_is_none_again(
    cluster: ServeCluster, arguments: dict[str, Any]
) -> None:
    scaling = {"autoscaling": True, "min_replicas": 0, "max_replicas": 2, "max_gateways": 2, "calls_per_gateway": 4}
    at_once = {"idle_timeout_s": 1, "scale_up_cooldown_s": 0, "scale_down_cooldown_s": 0, "sse_comment_s": 0.5}
    cluster.deploy(arguments | scaling | at_once)
    cluster.wait_for("RUNNING")
    url = f"http://127.0.0.1:{arguments['port']}"
    wait_until(lambda: not cluster.replicas("engine"), "the fleet to have no replica")
    assert httpx.get(f"{url}/readyz", trust_env=False).status_code == 200
    with ThreadPoolExecutor(STREAMS) as pool:
        held = list(pool.map(lambda number: stream(url, number), range(STREAMS)))
    assert all(lines[-1] == "data: [DONE]" and '"error"' not in "".join(lines) for lines in held)
    assert all(lines[0] == ": keep-alive" for lines in held), "none of them was refused, or silent"
    with streaming(url, STREAMS, TOKENS) as streams:
        wait_until(lambda: len(cluster.replicas("gateway")) == 2 and streams.whole, "a gateway more for so many calls")
    wait_until(lambda: not cluster.replicas("engine"), "the idle fleet to have no replica")
    wait_until(lambda: len(cluster.replicas("gateway")) == 1, "the idle fleet to have one gateway")
    assert (streams.failed, streams.cut) == ([], [])


def test_a_rolling_update_to_another_redis_fails_and_cuts_no_stream(
    cluster: ServeCluster, url: str, arguments: dict[str, Any], redis_urls: list[str]
) -> None:
    old = cluster.replicas("gateway") | cluster.replicas("engine")
    arguments["redis_url"] = redis_urls[1]
    with streaming(url, STREAMS, TOKENS) as streams:
        wait_until(lambda: streams.whole > STREAMS, "the streams to run")
        cluster.deploy(arguments)
        wait_until(
            lambda: (
                cluster.application()["status"] == "RUNNING"
                and not old.keys() & (cluster.replicas("gateway") | cluster.replicas("engine")).keys()
            ),
            "every part to be replaced",
        )
        before = streams.whole
        wait_until(lambda: streams.whole > before + STREAMS, "the streams to go on")
    assert (streams.failed, streams.cut) == ([], [])
    assert len(fleet(url)) == 2


def test_a_wrong_setting_is_refused_before_anything_is_touched(
    cluster: ServeCluster, url: str, arguments: dict[str, Any]
) -> None:
    old = fleet(url)
    cluster.deploy(arguments | {"block_tokens": -32})
    found = cluster.wait_for("DEPLOY_FAILED")
    assert "block_tokens" in found["message"]
    assert complete(url).status_code == 200
    assert fleet(url) == old


@pytest.mark.slow
def test_a_rollout_that_cannot_start_keeps_the_old_fleet(
    cluster: ServeCluster, url: str, arguments: dict[str, Any], tmp_path: Path
) -> None:
    old = fleet(url)
    with streaming(url, STREAMS, TOKENS) as streams:
        cluster.deploy(arguments | {"model": str(tmp_path / "no model")})
        found = cluster.wait_for("DEPLOY_FAILED")
    assert "no model" in str(found)
    assert (streams.failed, streams.cut) == ([], [])
    assert fleet(url) == old


def test_a_killed_raylet_takes_no_call_along_that_has_not_streamed(
    cluster: ServeCluster, url: str, arguments: dict[str, Any]
) -> None:
    """The last test of this cluster."""
    cluster.deploy(arguments)
    cluster.wait_for("RUNNING")
    with ThreadPoolExecutor(STREAMS) as pool:
        calls = [pool.submit(complete, url, number, 400) for number in range(STREAMS)]
        wait_until(lambda: running(url) >= STREAMS - 2, "the calls to run")
        os.kill(cluster.raylets[0], signal.SIGKILL)
        calls += [pool.submit(complete, url, number) for number in range(100, 120)]
        answers = [call.result() for call in calls]
    assert [answer.status_code for answer in answers] == [200] * len(answers)
    wait_until(lambda: len(fleet(url)) == 2, "the engine to be replaced elsewhere")
    replicas = httpx.get(f"{url}/v1/replicas", trust_env=False).json()["replicas"]
    assert all(replica["held_blocks"] for replica in replicas), "the new one began with what the other's calls had"


def complete(url: str, number: int = 0, tokens: int = 1) -> httpx.Response:
    body = {"model": BASE, "prompt": [100 + number] * 64, "max_tokens": tokens, "ignore_eos": True}
    return httpx.post(f"{url}/v1/completions", json=body, timeout=120, trust_env=False)


def stream(url: str, number: int) -> list[str]:
    """Return the lines of a streamed answer."""
    body = {"model": BASE, "prompt": [100 + number] * 64, "max_tokens": 4, "stream": True}
    with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=120, trust_env=False) as answer:
        assert answer.status_code == 200, answer.read()
        return [line for line in answer.iter_lines() if line]


def running(url: str) -> int:
    """Return how many calls the replicas have."""
    loads = [one["load"] for one in httpx.get(f"{url}/v1/replicas", trust_env=False).json()["replicas"]]
    return sum(load["running"] + load["waiting"] for load in loads)
