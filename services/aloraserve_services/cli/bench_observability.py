"""``make bench-observability``: what metrics and traces cost the gateway's throughput.

Two platforms of simulated engines run beside each other, one that observes and one that does not, and take turns: a
pair is a turn of each, in alternating order, so that what else the machine does meets both. The engines are so fast
that the gateway, with the proxy before it and the client, is what calls wait for. The platform that observes is scraped
as often as Prometheus would, counted in its own turns' time.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil

from aloraserve.errors import StartError
from aloraserve.simulation.calibration import load
from aloraserve_services.cli.bench_routing_live import slowed
from aloraserve_services.cli.live_client import LightClient
from aloraserve_services.engine.model_files import ensure_smollm2

SPEED = 50.0
"""How many times faster the engines are than those of the calibration."""
CALIBRATION = "live-peers"
REPLICAS = 2
CLIENTS = 6
PROMPT_TOKENS, ANSWER_TOKENS, VOCABULARY = 512, 32, 30_000
PROMPTS = 64
WARM_UP_TURNS = 2
SCRAPE_EVERY_S = 5.0
T_95 = ((5, 2.571), (10, 2.228), (20, 2.086), (40, 2.021), (120, 1.980))
"""Student's t for a two-sided interval of 95 %, by degrees of freedom."""


@dataclass(slots=True)
class Overhead:
    """What came of the pairs.

    Args:
        name: what was compared with nothing.
        ratios: of each pair, calls a second with it by calls a second without.
        plain_per_s: calls a second without, over all turns.
        cpu_ratio: the gateway's CPU time a call with it, by that without.
    """

    name: str
    ratios: list[float] = field(default_factory=list)
    plain_per_s: float = 0.0
    cpu_ratio: float = 0.0

    @property
    def interval(self) -> tuple[float, float, float]:
        """Lower end, mean and upper end of the change in throughput, with 95 % confidence."""
        logs = [math.log(one) for one in self.ratios]
        mean = statistics.fmean(logs)
        half = _t95(len(logs) - 1) * statistics.stdev(logs) / math.sqrt(len(logs))
        return math.exp(mean - half) - 1, math.exp(mean) - 1, math.exp(mean + half) - 1


@dataclass(slots=True)
class _Turns:
    """One platform's turns so far."""

    calls: int = 0
    seconds: float = 0.0
    cpu_s: float = 0.0


class Arm:
    """One running platform.

    Args:
        url: of its HTTP API.
        pid: of its process.
        is_scraped: whether its metrics are fetched in each turn.
    """

    def __init__(self, url: str, pid: int, *, is_scraped: bool) -> None:
        address = urlsplit(url)
        self._client = LightClient(address.hostname or "", address.port or 0, {})
        self._gateway = _gateway(pid)
        self._model = httpx.get(f"{url}/v1/models", trust_env=False).json()["data"][0]["id"]
        self._targets = _targets(url) if is_scraped else []
        self._turn = 0
        self._unscraped_s = 0.0
        self.turns = _Turns()

    async def turn(self, prompts: Sequence[list[int]], seconds: float) -> float:
        """Call for ``seconds``; return calls a second."""
        self._turn += 1
        cpu, started = sum(self._gateway.cpu_times()[:2]), time.perf_counter()
        ends = started + seconds
        scrape = asyncio.create_task(self._scrape())
        made = await asyncio.gather(*(self._call_until(ends, number, prompts) for number in range(CLIENTS)))
        await scrape
        took = time.perf_counter() - started
        self._unscraped_s += took
        if self._turn > WARM_UP_TURNS:
            self.turns.calls += sum(made)
            self.turns.seconds += took
            self.turns.cpu_s += sum(self._gateway.cpu_times()[:2]) - cpu
        return sum(made) / took

    async def _call_until(self, ends: float, number: int, prompts: Sequence[list[int]]) -> int:
        calls = 0
        while time.perf_counter() < ends:
            name = f"{self._turn}-{number}-{calls}"
            prompt = prompts[(number * 7 + calls) % len(prompts)]
            await self._client.complete(name, self._model, prompt, ANSWER_TOKENS)
            calls += 1
        return calls

    async def _scrape(self) -> None:
        if self._unscraped_s < SCRAPE_EVERY_S:
            return
        self._unscraped_s = 0.0
        async with httpx.AsyncClient(trust_env=False) as client:
            for target in self._targets:
                (await client.get(f"http://{target}/metrics")).raise_for_status()


def measure(name: str, observing: dict[str, str], *, pairs: int, turn_s: float, state_dir: Path) -> Overhead:
    """Return what observing costs.

    Args:
        name: of what is measured.
        observing: settings of the platform that observes, as variables.
        pairs: how many are played.
        turn_s: seconds of each turn.
        state_dir: where the converted model is, or is to be.

    Raises:
        StartError: a platform does not start.
        CallFailedError: a call failed.
    """
    model = ensure_smollm2(state_dir, dtype="float32")
    with _platform(model, {"ALORASERVE_METRICS": "false"}) as plain, _platform(model, observing) as seen:
        arms = Arm(*plain, is_scraped=False), Arm(*seen, is_scraped=True)
        return asyncio.run(_play(name, arms, pairs, turn_s))


async def _play(name: str, arms: tuple[Arm, Arm], pairs: int, turn_s: float) -> Overhead:
    draw = random.Random(0)  # noqa: S311
    prompts = [[draw.randrange(VOCABULARY) for _ in range(PROMPT_TOKENS)] for _ in range(PROMPTS)]
    found = Overhead(name)
    for pair in range(-WARM_UP_TURNS, pairs):
        order = (0, 1) if pair % 2 else (1, 0)
        rates = {one: await arms[one].turn(prompts, turn_s) for one in order}
        if pair >= 0:
            found.ratios.append(rates[1] / rates[0])
    plain, seen = (arm.turns for arm in arms)
    found.plain_per_s = plain.calls / plain.seconds
    found.cpu_ratio = (seen.cpu_s / seen.calls) / (plain.cpu_s / plain.calls) - 1
    return found


@contextlib.contextmanager
def _platform(model: Path, variables: dict[str, str]) -> Iterator[tuple[str, int]]:
    """Run ``aloraserve up`` with a state folder of its own; yield its address and process."""
    with tempfile.TemporaryDirectory(prefix="alora-bench-") as folder:
        times = Path(folder) / "times.json"
        times.write_text(slowed(load(CALIBRATION), 1 / SPEED).model_dump_json())
        flags = ["--engine", "simulated", "--calibration", str(times), "--replicas", str(REPLICAS)]
        own = ["--state-dir", folder, "--model", str(model), "--port", str(_free_port())]
        environment = {**os.environ, "ALORASERVE_LOOKUP_BUDGET_MS": "100", **variables}
        started = _aloraserve("up", "--detach", *flags, *own, environment=environment)
        if started.returncode:
            raise StartError(f"a platform did not start: {started.stderr[-500:]}")
        try:
            running = json.loads((Path(folder) / "run.json").read_text())
            yield running["url"], running["pid"]
        finally:
            _aloraserve("down", "--state-dir", folder, environment=environment)


def _aloraserve(*arguments: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "aloraserve_services.cli.main", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)  # noqa: S603


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _gateway(pid: int) -> psutil.Process:
    for process in psutil.Process(pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if "ServeReplica:aloraserve:gateway" in " ".join(process.cmdline()):
                return process
    raise StartError(f"process {pid} has no gateway")


def _targets(url: str) -> list[str]:
    found = httpx.get(f"{url}/v1/metrics/targets", trust_env=False).raise_for_status().json()
    return [address for one in found for address in one["targets"]]


def _t95(freedom: int) -> float:
    return next((t for least, t in reversed(T_95) if freedom >= least), 4.303)


def main() -> None:
    """Measure metrics alone, then metrics and traces, and print both."""
    import argparse

    parser = argparse.ArgumentParser(prog="bench-observability", description=__doc__.partition("\n")[0])
    parser.add_argument("--pairs", type=int, default=200)
    parser.add_argument("--turn-s", type=float, default=0.7)
    parser.add_argument("--otlp-endpoint", help="also trace, to this collector")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    from aloraserve.settings import default_state_dir

    traces = {"ALORASERVE_OTLP_ENDPOINT": given.otlp_endpoint} if given.otlp_endpoint else {}
    name = "metrics and traces" if traces else "metrics"
    found = measure(name, traces, pairs=given.pairs, turn_s=given.turn_s, state_dir=default_state_dir())
    low, mean, high = found.interval
    print(f"{name}: throughput {mean:+.2%}, 95 % interval {low:+.2%} to {high:+.2%}")
    print(f"({len(found.ratios)} pairs; {found.plain_per_s:.0f} calls/s without; CPU a call {found.cpu_ratio:+.1%})")
    if given.json:
        given.json.write_text(json.dumps(asdict(found), indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
