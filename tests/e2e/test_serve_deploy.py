"""``serve deploy``: the application from a config file on a Ray that runs already, with two gateways."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from support.helm_tools import CHART, objects, of_kind, render
from support.own_valkey import socket_url, valkey_server
from support.redis_deployments import free_port
from support.waiting import wait_until

from aloraserve_services.models.untrained import write_untrained_adapters

BASE = "SmolLM2-135M-Instruct"
ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "deploy/serve/aloraserve.yaml"
HEAD = ROOT / "tests/support/ray_head.py"
TENANT, ADMIN = "tenant-key-0123456789", "admin-key-0123456789"
AS_ADMIN = {"Authorization": f"Bearer {ADMIN}"}
START_S = 400

pytestmark = [pytest.mark.e2e, pytest.mark.ray, pytest.mark.timeout(600)]


class Cluster:
    """A Ray head of this module's own, and the ``serve`` command for it."""

    def __init__(self, dashboard_port: int, head_address: str, environment: dict[str, str]) -> None:
        self._address = f"http://127.0.0.1:{dashboard_port}"
        self.head_address = head_address
        self.environment = environment

    def serve(self, *arguments: str) -> str:
        """Run the ``serve`` command; return what it printed."""
        command = [str(Path(sys.executable).with_name("serve")), *arguments, "--address", self._address]
        done = subprocess.run(command, env=self.environment, text=True, capture_output=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def application(self) -> dict[str, Any]:
        """Return what Serve says of the application."""
        status = yaml.safe_load(self.serve("status"))
        return dict(status["applications"].get("aloraserve", {}))

    def wait_for(self, *states: str) -> dict[str, Any]:
        """Wait until the application is in one of these states."""
        deadline = time.monotonic() + START_S
        while True:
            found = self.application()
            if found.get("status") in states:
                return found
            assert found.get("status") != "DEPLOY_FAILED", found
            assert time.monotonic() < deadline, found
            time.sleep(1)


@pytest.fixture(scope="module")
def cluster(redis_url: str) -> Iterator[Cluster]:
    port = free_port()
    environment = {
        **os.environ,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        # Secrets come from the cluster's environment: Serve shows and logs a config's arguments.
        "ALORASERVE_API_KEYS": json.dumps({"tenant": TENANT}),
        "ALORASERVE_ADMIN_KEYS": json.dumps({"admin": ADMIN}),
        "ALORASERVE_REDIS_URL": redis_url,
    }
    head = subprocess.Popen(
        [sys.executable, str(HEAD), str(port)],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert head.stdout is not None
        ready = next((line for line in head.stdout if line.startswith("ready ")), None)
        assert ready is not None, "Ray did not start"
        yield Cluster(port, ready.split()[1], environment)
    finally:
        assert head.stdin is not None
        head.stdin.close()
        head.wait(60)
        assert head.stdout is not None
        head.stdout.close()


@pytest.fixture(scope="module")
def redis_url() -> Iterator[str]:
    with valkey_server() as server:
        yield socket_url(server)


@pytest.fixture(scope="module")
def config(
    tmp_path_factory: pytest.TempPathFactory,
    redis_url: str,
    state_dir: Path,
    model_path: Path,
) -> dict[str, Any]:
    """The example's config with a port, a Redis and folders of this module's own."""
    folder = tmp_path_factory.mktemp("adapters")
    write_untrained_adapters(folder, model_path)
    content: dict[str, Any] = yaml.safe_load(EXAMPLE.read_text())
    content["applications"][0]["args"] |= {
        "port": free_port(),
        "redis_url": redis_url,
        "state_dir": str(state_dir),
        "adapters_dir": str(folder),
        # A busy machine is not what this is about.
        "lookup_budget_ms": 500,
    }
    return content


@pytest.fixture(scope="module")
def http(cluster: Cluster, config: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A tenant's client of the deployed application."""
    file = tmp_path_factory.mktemp("serve") / "aloraserve.yaml"
    file.write_text(yaml.safe_dump(config))
    cluster.serve("deploy", str(file))
    found = cluster.wait_for("RUNNING")
    assert found["deployments"]["gateway"]["replica_states"] == {"RUNNING": 2}
    url = f"http://127.0.0.1:{config['applications'][0]['args']['port']}"
    # A connection of its own for each call: the kernel gives each to one of the gateways.
    limits, headers = httpx.Limits(max_keepalive_connections=0), {"Authorization": f"Bearer {TENANT}"}
    with httpx.Client(base_url=url, timeout=60, trust_env=False, limits=limits, headers=headers) as http:
        # Several times: either gateway is asked.
        wait_until(lambda: all(len(states(http)) == 2 for _ in range(12)), "each gateway to see both replicas")
        yield http


def states(http: httpx.Client) -> list[dict[str, Any]]:
    """Return what one of the gateways knows of the replicas."""
    return list(http.get("/v1/replicas", headers=AS_ADMIN).json()["replicas"])


def wait_until_held(http: httpx.Client, blocks: int) -> None:
    """Wait until the directory has so many blocks: an engine reports them a moment after its answer."""
    wait_until(lambda: held(http) >= blocks, f"{blocks} blocks to be held")


def held(http: httpx.Client) -> int:
    """Return how many blocks the directory has."""
    return sum(state["held_blocks"] for state in states(http))


def complete(http: httpx.Client, model: str, prompt: list[int]) -> httpx.Response:
    answer = http.post("/v1/completions", json={"model": model, "prompt": prompt, "max_tokens": 1, "temperature": 0})
    assert answer.status_code == 200, answer.text
    return answer


def admin(http: httpx.Client, path: str) -> Any:
    answer = http.get(path, headers={"Authorization": f"Bearer {ADMIN}"})
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_the_deployed_application_answers_and_shares_a_prefix_with_its_adapters(http: httpx.Client) -> None:
    names = {model["id"] for model in http.get("/v1/models").json()["data"]}
    assert {BASE, "safety", "uncertainty"} <= names
    prompt = list(range(2000, 2640))
    before = held(http)
    complete(http, BASE, prompt)
    wait_until_held(http, before + len(prompt) // 32)
    answer = http.post("/v1/completions", json={"model": "safety", "prompt": prompt, "max_tokens": 1})
    assert answer.status_code == 200, answer.text
    assert int(answer.headers["x-aloraserve-cached-tokens"]) >= 600


def test_keys_of_the_cluster_s_environment_hold(http: httpx.Client) -> None:
    assert httpx.get(f"{http.base_url}/v1/models", trust_env=False).status_code == 401
    assert http.get("/v1/receipts").status_code == 403


def test_both_gateways_serve_and_either_finds_every_receipt(http: httpx.Client) -> None:
    """Each looks for what it does not have in the other."""
    with ThreadPoolExecutor(8) as pool:
        prompts = [list(range(3000 + 700 * number, 3640 + 700 * number)) for number in range(24)]
        ids = list(pool.map(lambda prompt: complete(http, BASE, prompt).headers["x-request-id"], prompts))
    for request_id in ids:
        # Several times: one gateway is asked, or the other.
        for _ in range(3):
            assert admin(http, f"/v1/receipts/{request_id}")["request_id"] == request_id
    listed = [receipt["request_id"] for receipt in admin(http, "/v1/receipts?limit=1000")["receipts"]]
    assert set(ids) <= set(listed)
    assert len(listed) == len(set(listed))
    wait_until(lambda: sorted(answered(http)) == ["gateway-0", "gateway-1"], "both gateways to be listed")
    assert all(answered(http).values())


def answered(http: httpx.Client) -> dict[str, int]:
    """Return how many calls each gateway has answered, as its own metrics say."""
    found = {}
    for target in admin(http, "/v1/metrics/targets"):
        if target["labels"]["role"] == "gateway":
            text = httpx.get(f"http://{target['targets'][0]}/metrics", trust_env=False).text
            counts = [line for line in text.splitlines() if line.startswith("aloraserve_ttft_seconds_count")]
            found[target["labels"]["process"]] = sum(int(float(line.rsplit(" ", 1)[1])) for line in counts)
    return found


def test_every_process_is_listed_with_its_metrics(http: httpx.Client) -> None:
    def roles() -> Counter[str]:
        return Counter(target["labels"]["role"] for target in admin(http, "/v1/metrics/targets"))

    wait_until(lambda: roles() == {"gateway": 2, "engine": 2}, "every process to be listed")


def test_siblings_follow_their_conversation_through_either_gateway(http: httpx.Client) -> None:
    """What one gateway's call left in a replica, both know of."""
    for number in range(4):
        prompt = list(range(30_000 + 1000 * number, 30_640 + 1000 * number))
        before = held(http)
        holder = complete(http, BASE, prompt).headers["x-aloraserve-replica"]
        wait_until_held(http, before + len(prompt) // 32)
        models = ("safety", "uncertainty", BASE)
        with ThreadPoolExecutor(3) as pool:
            answers = list(pool.map(complete, [http] * 3, models, [prompt] * 3))
        assert {answer.headers["x-aloraserve-replica"] for answer in answers} == {holder}
        assert all(int(answer.headers["x-aloraserve-cached-tokens"]) >= 600 for answer in answers)


def test_savings_are_the_fleet_s(http: httpx.Client) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: complete(http, BASE, [*range(40_000 - number, 40_640 - number)]), range(16)))
    # The other gateway writes its part every two seconds.
    wait_until(
        lambda: http.get("/v1/savings", headers=AS_ADMIN).json()["total"]["calls"] == sum(answered(http).values()),
        "the savings to count every call",
    )
    assert all(answered(http).values())


def test_a_running_answer_ends_before_its_application_does(http: httpx.Client, cluster: Cluster) -> None:
    """The last test of this deployment."""
    body = {"model": BASE, "prompt": "x", "max_tokens": 600, "ignore_eos": True, "stream": True}
    with http.stream("POST", "/v1/completions", json=body) as answer:
        lines = answer.iter_lines()
        next(lines)
        cluster.serve("shutdown", "--yes")

        def is_refused() -> bool:
            with contextlib.suppress(httpx.HTTPError):
                httpx.get(f"{http.base_url}/healthz", trust_env=False, timeout=5)
                return False
            return True

        wait_until(is_refused, "the drained gateway to refuse")
        text = [line for line in lines if line]
    assert text[-1] == "data: [DONE]"
    assert '"error"' not in "".join(text)
    assert '"finish_reason":"length"' in text[-2]


def test_a_wrong_argument_is_named_in_the_application_s_status(
    http: httpx.Client, cluster: Cluster, config: dict[str, Any], tmp_path: Path
) -> None:
    wrong: dict[str, Any] = json.loads(json.dumps(config))
    wrong["applications"][0]["args"]["replicas"] = 0
    file = tmp_path / "wrong.yaml"
    file.write_text(yaml.safe_dump(wrong))
    cluster.serve("deploy", str(file))
    deadline = time.monotonic() + START_S
    while "args: replicas is '0'" not in str(cluster.application().get("message")):
        assert time.monotonic() < deadline, cluster.application()
        time.sleep(1)


@pytest.fixture(scope="module")
def chart_folder(tmp_path_factory: pytest.TempPathFactory, state_dir: Path) -> Path:
    """What pods have: Secrets that are mounted, and a state folder."""
    folder = tmp_path_factory.mktemp("pod")
    pepper = folder / "secrets" / "pepper" / "pepper"
    pepper.parent.mkdir(parents=True)
    pepper.write_text(secrets.token_hex(32))
    pepper.chmod(0o440)
    (folder / "state").symlink_to(state_dir)
    return folder


@pytest.fixture(scope="module")
def chart_url(cluster: Cluster, chart_folder: Path) -> tuple[str, str]:
    """Where the Serve config of the Helm chart answers over HTTP and gRPC, deployed as it is."""
    # Below are Ray's own, as the chart has them.
    free = (port for port in iter(free_port, 0) if 20_000 <= port < 61_000)
    ports = {"http": next(free), "grpc": next(free), "metrics": 61_000, "channel": 61_100}
    paths = {"state": str(chart_folder / "state"), "secrets": str(chart_folder / "secrets")}
    values = {"ports": ports, "paths": paths, "config": {"namespace": "chart"}}
    found = objects(render(values, CHART / "ci" / "simulated-values.yaml"))
    file = chart_folder / "serve.yaml"
    file.write_text(of_kind(found, "RayService")["spec"]["serveConfigV2"])
    cluster.serve("shutdown", "--yes")
    cluster.serve("deploy", str(file))
    deployments = cluster.wait_for("RUNNING")["deployments"]
    assert {name: found["replica_states"] for name, found in deployments.items()} == {
        "gateway": {"RUNNING": 2},
        "engine": {"RUNNING": 2},
    }
    return f"http://127.0.0.1:{ports['http']}", f"127.0.0.1:{ports['grpc']}"


def test_the_chart_s_serve_config_answers_what_helm_test_asks(cluster: Cluster, chart_url: tuple[str, str]) -> None:
    http, grpc = chart_url
    wait_until(lambda: httpx.get(f"{http}/readyz", trust_env=False).status_code == 200, "the gateway to be ready")
    asked = {"ALORASERVE_TEST_URL": http, "ALORASERVE_TEST_GRPC": grpc, "ALORASERVE_TEST_KEY": TENANT}
    command = [sys.executable, str(CHART / "files" / "check.py")]
    done = subprocess.run(command, env=cluster.environment | asked, text=True, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines() == [
        "GET /readyz: 200",
        "GET /v1/models without a key: 401",
        "gRPC health: SERVING",
        "GET /v1/models: 200",
        f"POST /v1/chat/completions to {BASE}: 200",
    ]


def test_the_chart_s_load_test_calls_models_in_turn(cluster: Cluster, chart_url: tuple[str, str]) -> None:
    load = {"ALORASERVE_LOAD_KEY": TENANT, "ALORASERVE_LOAD_MAX_TOKENS": "4"}
    command = [sys.executable, "-m", "locust", "-f", str(CHART / "files" / "locustfile.py"), "--host", chart_url[0]]
    command += ["--headless", "--only-summary", "-u", "2", "-r", "2", "-t", "2s", "--exit-code-on-error", "1"]
    done = subprocess.run(command, env=cluster.environment | load, text=True, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert f"chat {BASE}" in done.stderr


def test_a_node_is_drained_before_its_pod_ends(cluster: Cluster, chart_url: tuple[str, str]) -> None:
    """The last test of this cluster: what ``preStop`` runs, where no other node could take the replicas."""
    body = {"model": BASE, "prompt": "x", "max_tokens": 600, "ignore_eos": True, "stream": True}
    headers = {"Authorization": f"Bearer {TENANT}"}
    command = [sys.executable, "-m", "aloraserve_services.node_drain", "--within", "120", "--address"]
    with (
        httpx.Client(base_url=chart_url[0], timeout=60, trust_env=False, headers=headers) as client,
        client.stream("POST", "/v1/completions", json=body) as answer,
    ):
        lines = answer.iter_lines()
        next(lines)
        drain = subprocess.Popen(
            [*command, cluster.head_address], env=cluster.environment, stdout=subprocess.PIPE, text=True
        )
        text = [line for line in lines if line]
        said, _ = drain.communicate(timeout=120)
    assert text[-1] == "data: [DONE]"
    assert '"error"' not in "".join(text)
    assert said.splitlines() == ["node_drain: draining", "node_drain: drained"]
    assert drain.returncode == 0
