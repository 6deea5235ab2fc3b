"""``make bench-observability``: what metrics and traces cost the gateway's throughput.

Two platforms of simulated engines run beside each other, one that observes and one that does not, and take turns: a
pair is a turn of each, in alternating order, so that what else the machine does meets both. Two starts of one platform
differ by some percent for as long as they run, which no number of pairs averages out: so both are started anew several
times, and the interval is that of the starts' means. The engines are so fast that the gateway, with the proxy before it
and the client, is what calls wait for. The platform that observes is scraped as often as Prometheus would, counted in
its own turns' time.
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

from aloraserve.engine_model.calibration import load
from aloraserve.errors import StartError
from aloraserve.simulation.summary import half_width
from aloraserve_services.cli.bench_routing_live import slowed
from aloraserve_services.cli.live_client import LightClient
from aloraserve_services.models.model_files import ensure_smollm2

SPEED = 50.0
"""How many times faster the engines are than those of the calibration."""
PLAIN = {"ALORASERVE_METRICS": "false"}
CALIBRATION = "live-peers"
REPLICAS = 2
CLIENTS = 6
PROMPT_TOKENS, ANSWER_TOKENS, VOCABULARY = 512, 32, 30_000
PROMPTS = 64
WARM_UP_TURNS = 2
SCRAPE_EVERY_S = 5.0


@dataclass(slots=True)
class Overhead:
    """What came of the pairs.

    Args:
        name: what was compared with nothing.
        ratios: of each start, the geometric mean over its pairs of calls a second with it by calls a second without.
        cpu_ratios: likewise, calls a second of the platform's CPU time: what else the machine does is not in it.
        pairs: of all starts.
        plain_calls: made without, in all turns.
        plain_s: that they took.
        plain_cpu_s: the platform's CPU time that they took.
    """

    name: str
    ratios: list[float] = field(default_factory=list)
    cpu_ratios: list[float] = field(default_factory=list)
    pairs: int = 0
    plain_calls: int = 0
    plain_s: float = 0.0
    plain_cpu_s: float = 0.0


def interval(ratios: Sequence[float]) -> tuple[float, float, float]:
    """Return lower end, mean and upper end of a change, with 95 % confidence.

    Args:
        ratios: of at least two starts; their logarithms are taken to be normal.
    """
    logs = [math.log(one) for one in ratios]
    mean = statistics.fmean(logs)
    half = half_width(logs)
    return math.exp(mean - half) - 1, math.exp(mean) - 1, math.exp(mean + half) - 1


@dataclass(frozen=True, slots=True)
class _Turn:
    """What one turn of a platform came to."""

    calls: int
    seconds: float
    cpu_s: float


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
        self._processes = _processes(pid)
        self._model = httpx.get(f"{url}/v1/models", trust_env=False).json()["data"][0]["id"]
        self._targets = _targets(url) if is_scraped else []
        self._turn = 0
        self._unscraped_s = 0.0

    async def turn(self, prompts: Sequence[list[int]], seconds: float) -> _Turn:
        """Call for ``seconds``."""
        self._turn += 1
        cpu_s, started = self._cpu_s(), time.perf_counter()
        ends = started + seconds
        scrape = asyncio.create_task(self._scrape())
        made = await asyncio.gather(*(self._call_until(ends, number, prompts) for number in range(CLIENTS)))
        await scrape
        took = time.perf_counter() - started
        self._unscraped_s += took
        return _Turn(sum(made), took, self._cpu_s() - cpu_s)

    def _cpu_s(self) -> float:
        return float(sum(sum(one.cpu_times()[:2]) for one in self._processes))

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
        for target in self._targets:
            await _fetch(target)


def measure(
    name: str, observing: dict[str, str], *, starts: int, pairs: int, turn_s: float, state_dir: Path
) -> Overhead:
    """Return what observing costs.

    Args:
        name: of what is measured.
        observing: settings of the platform that observes, as variables.
        starts: how often both platforms are started.
        pairs: how many are played with each start.
        turn_s: seconds of each turn.
        state_dir: where the converted model is, or is to be.

    Raises:
        StartError: a platform does not start.
        CallFailedError: a call failed.
    """
    model = ensure_smollm2(state_dir, dtype="float32")
    found = Overhead(name)
    for number in range(starts):
        # Which of them starts on the emptier machine changes too.
        first, second = (PLAIN, observing) if number % 2 else (observing, PLAIN)
        with _platform(model, first) as one, _platform(model, second) as other:
            plain, seen = (one, other) if number % 2 else (other, one)
            arms = Arm(*plain, is_scraped=False), Arm(*seen, is_scraped=True)
            asyncio.run(_play(found, arms, pairs, turn_s))
        print(
            f"start {number + 1} of {starts}: {found.ratios[-1] - 1:+.2%} calls a second, "
            f"{found.cpu_ratios[-1] - 1:+.2%} of CPU time",
            flush=True,
        )
    return found


async def _play(found: Overhead, arms: tuple[Arm, Arm], pairs: int, turn_s: float) -> None:
    """Add the pairs of one start."""
    draw = random.Random(0)  # noqa: S311
    prompts = [[draw.randrange(VOCABULARY) for _ in range(PROMPT_TOKENS)] for _ in range(PROMPTS)]
    ratios, cpu_ratios = [], []
    for pair in range(-WARM_UP_TURNS, pairs):
        order = (0, 1) if pair % 2 else (1, 0)
        turns = {one: await arms[one].turn(prompts, turn_s) for one in order}
        if pair >= 0:
            without, seen = turns[0], turns[1]
            ratios.append((seen.calls / seen.seconds) / (without.calls / without.seconds))
            cpu_ratios.append((seen.calls / seen.cpu_s) / (without.calls / without.cpu_s))
            found.plain_calls += without.calls
            found.plain_s += without.seconds
            found.plain_cpu_s += without.cpu_s
    found.pairs += pairs
    found.ratios.append(statistics.geometric_mean(ratios))
    found.cpu_ratios.append(statistics.geometric_mean(cpu_ratios))


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


def _processes(pid: int) -> list[psutil.Process]:
    """Return the gateway, the proxy before it, and the engines of a platform."""
    found = []
    for process in psutil.Process(pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if any(sign in " ".join(process.cmdline()) for sign in ("ServeReplica:", "ProxyActor")):
                found.append(process)
    if len(found) < REPLICAS + 2:
        raise StartError(f"process {pid} has {len(found)} of a gateway, a proxy and {REPLICAS} engines")
    return found


async def _fetch(target: str) -> None:
    """Scrape a process at next to no cost for this one, whose time the calls need."""
    host, _, port = target.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"GET /metrics HTTP/1.0\r\nhost: {target}\r\n\r\n".encode())
    if b" 200 " not in await reader.readline():
        raise StartError(f"{target} does not show its metrics")
    await reader.read()
    writer.close()


def _targets(url: str) -> list[str]:
    found = httpx.get(f"{url}/v1/metrics/targets", trust_env=False).raise_for_status().json()
    return [address for one in found for address in one["targets"]]


def main() -> None:
    """Measure, and print what came of it."""
    import argparse

    parser = argparse.ArgumentParser(prog="bench-observability", description=__doc__.partition("\n")[0])
    parser.add_argument("--starts", type=int, default=10, help="of both platforms, 2 at least")
    parser.add_argument("--pairs", type=int, default=40, help="with each start")
    parser.add_argument("--turn-s", type=float, default=0.7)
    parser.add_argument("--otlp-endpoint", help="also trace, to this collector")
    parser.add_argument("--nothing", action="store_true", help="compare a platform with itself")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    from aloraserve.settings import default_state_dir

    traces = {"ALORASERVE_OTLP_ENDPOINT": given.otlp_endpoint} if given.otlp_endpoint else {}
    name = "nothing" if given.nothing else "metrics and traces" if traces else "metrics"
    for flag, value, least in (("starts", given.starts, 2), ("pairs", given.pairs, 1), ("turn-s", given.turn_s, 0.1)):
        if not value >= least:
            parser.error(f"--{flag} is {value:g}; at least {least:g} is accepted")
    observing = PLAIN if given.nothing else traces
    found = measure(
        name,
        observing,
        starts=given.starts,
        pairs=given.pairs,
        turn_s=given.turn_s,
        state_dir=default_state_dir(),
    )
    print(f"{name}, {found.pairs} pairs over {given.starts} starts")
    for what, ratios in (("calls a second", found.ratios), ("calls a second of CPU time", found.cpu_ratios)):
        low, mean, high = interval(ratios)
        print(f"{what}: {mean:+.2%}, 95 % interval {low:+.2%} to {high:+.2%}")
    per_s, cpu_ms = found.plain_calls / found.plain_s, found.plain_cpu_s / found.plain_calls * 1000
    print(f"without: {per_s:.0f} calls/s, {cpu_ms:.1f} ms of CPU time a call")
    if given.json:
        given.json.write_text(json.dumps(asdict(found), indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
