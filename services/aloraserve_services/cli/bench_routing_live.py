"""``aloraserve bench-routing-live``: routing policies on simulated engines behind the real gateway, over HTTP.

The gateway's own latency of a call is the client's TTFT less the model's: what HTTP, Serve, rendering, deciding and
claiming took, on this machine with everything else that runs on it. It is measured for each call of the run (the
engines know their calls' own times) and, for comparison, on an idle fleet before it.

On a machine with too few cores for the gateway the calls queue in front of it, and what is measured is no router. A
slowdown stretches engines, starts and pauses alike, so that the same calls meet the same engines and the gateway has
more time for each; times are then given in the model's seconds, the gateway's latency in real ones.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import psutil
import typer

from aloraserve.engine_model.calibration import Calibration, load
from aloraserve.settings import Settings
from aloraserve_services.cli.client import CallFailedError
from aloraserve_services.cli.console import Steps, out, report_written
from aloraserve_services.cli.live_client import LightClient, Streamed
from aloraserve_services.cli.live_workload import (
    ALORA_EVALUATORS,
    ANSWER_TOKENS,
    EVALUATOR_TOKENS,
    Conversation,
    Kind,
    Turn,
    conversations,
    hit_bound,
)
from aloraserve_services.cli.options import ChosenSettings, JsonFile, takes_settings
from aloraserve_services.engine.simulated.answer_words import AnswerWords
from aloraserve_services.gateway.session import SESSION_HEADER
from aloraserve_services.models.untrained import TWIN_SUFFIX
from aloraserve_services.plan import FleetPlan

IDLE_CALLS = 40
IDLE_TOKENS = 1500
SERVED_TIMEOUT_S = 60
LOOKUP_BUDGET_MS = 200.0
"""Client, engines, Redis and gateway share a few cores: how long a lookup waits for one is not the router's doing."""
_PARTS = {
    "ServeReplica:aloraserve:engine": "engines",
    "ServeReplica:aloraserve:gateway": "gateway",
    "ProxyActor": "proxy",
    "valkey": "redis",
}


@takes_settings("replicas", "calibration", "block_tokens", "model", "port", "state_dir", replicas=6, block_tokens=16)
def bench_routing_live(
    chosen: ChosenSettings,
    policy: Annotated[list[str] | None, typer.Option(help="Repeat it to compare; default: expected-ttft.")] = None,
    rate: Annotated[list[float] | None, typer.Option(help="New conversations per second; default: 3 and 6.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the conversations.")] = 0,
    slowdown: Annotated[float, typer.Option(min=1, max=20, help="Stretch engines and workload, not the gateway.")] = 1,
    session_header: Annotated[bool, typer.Option(help="Send each conversation's id as x-session-id.")] = False,
    json: JsonFile = None,
) -> None:
    """Compare policies on simulated engines behind the real gateway, a platform for each policy and rate."""
    from aloraserve_services.cli.own_platform import own_settings

    settings = own_settings(chosen, json, engine="simulated", lookup_budget_ms=LOOKUP_BUDGET_MS)
    results: list[LiveResult] = []
    for name in policy or [settings.policy]:
        for rate_per_s in rate or [3.0, 6.0]:
            played = Settings(**settings.model_dump() | {"policy": name})
            results.append(_play_live(played, LivePlay(rate_per_s, seed, session_header, slowdown)))
            show_results(out, results)
    if json is not None:
        write_results(json, results, seed)
        report_written(json)


def _play_live(settings: Settings, play: LivePlay) -> LiveResult:
    from aloraserve_services.cli.own_platform import own_platform

    steps = Steps()
    with tempfile.TemporaryDirectory(prefix="aloraserve-live-") as folder:
        times = Path(folder) / "calibration.json"
        times.write_text(slowed(load(settings.calibration), play.slowdown).model_dump_json(), "utf-8")
        with own_platform(settings.model_copy(update={"calibration": str(times)}), steps) as platform:
            steps(f"playing {play.rate_per_s:g} new conversations per second with {settings.policy}")
            return run_live(platform.plan, platform.url, platform.headers, play)


@dataclass(slots=True)
class LiveResult:
    """One policy at one rate.

    Args:
        policy: asked for.
        rate_per_s: new conversations a second.
        calls: answered.
        failed: not answered, or not to the end.
        hit_share: cached tokens of all prompt tokens.
        hit_bound: what one endless cache for the whole fleet would reach on the same calls, made one after the other.
        hit_share_by_kind: of the base model's calls, and of the aLoRAs' and the LoRA's.
        ttft_p50_s: as the client sees it, like the other TTFT in the model's seconds.
        ttft_p90_s: likewise.
        engine_ttft_p50_s: less each call's own gateway latency.
        engine_ttft_p90_s: likewise.
        base_ttft_p90_s: the same of the base model's calls alone.
        gateway_p50_s: the gateway's own latency during the run.
        gateway_p90_s: likewise.
        gateway_idle_p50_s: the same on an idle fleet.
        slowdown: how many real seconds one of the model's took.
        seconds: real ones that the run took.
        calls_per_replica: who answered how many.
        decided_by: how many calls each policy decided; "fallback" ones went without the directory.
        cpu_s: CPU time that each part of the platform used, and the client.
        errors: the first of what failed.
    """

    policy: str
    rate_per_s: float
    calls: int = 0
    failed: int = 0
    hit_share: float = 0.0
    hit_bound: float = 0.0
    hit_share_by_kind: dict[str, float] = field(default_factory=dict)
    ttft_p50_s: float = 0.0
    ttft_p90_s: float = 0.0
    engine_ttft_p50_s: float = 0.0
    engine_ttft_p90_s: float = 0.0
    base_ttft_p90_s: float = 0.0
    gateway_p50_s: float = 0.0
    gateway_p90_s: float = 0.0
    gateway_idle_p50_s: float = 0.0
    slowdown: float = 1.0
    seconds: float = 0.0
    calls_per_replica: dict[str, int] = field(default_factory=dict)
    decided_by: dict[str, int] = field(default_factory=dict)
    cpu_s: dict[str, float] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)


class LiveRun:
    """Plays conversations on a running platform.

    Args:
        plan: of the platform, with the untrained adapters.
        client: for its HTTP API.
        with_session: send each conversation's name as its session id.
        slowdown: real seconds for each of the workload's.
    """

    def __init__(self, plan: FleetPlan, client: LightClient, *, with_session: bool, slowdown: float) -> None:
        aloras = [one.name for one in plan.adapters if one.invocation_ids][:ALORA_EVALUATORS]
        # The LoRA is no twin of theirs: three different evaluators.
        twins = {f"{name}{TWIN_SUFFIX}" for name in aloras}
        lora = next(one.name for one in plan.adapters if not one.invocation_ids and one.name not in twins)
        self._base = plan.served_name
        self._evaluators: tuple[tuple[Kind, str], ...] = (*(("alora", name) for name in aloras), ("lora", lora))
        self._words = AnswerWords.read(plan.model_path)
        self._client = client
        self._with_session = with_session
        self._slowdown = slowdown
        self.answers: list[Streamed] = []
        self.kinds: dict[str, Kind] = {}
        self.errors: list[str] = []

    async def idle(self, seed: int) -> list[Streamed]:
        """Make calls one after the other, each with a prompt of its own; half of them cached."""
        made = conversations(1.0, seed - 1, count=IDLE_CALLS // 2)
        found = []
        for number, one in enumerate(made):
            prompt = (one.turns[0].token_ids * IDLE_TOKENS)[:IDLE_TOKENS]
            for again in range(2):
                found.append(await self._client.complete(f"idle-{seed}-{number}-{again}", self._base, prompt, 2))
        return found

    async def play(self, made: Sequence[Conversation]) -> None:
        """Play all conversations, each from its start on."""
        started = time.perf_counter()
        await asyncio.gather(*(self._converse(one, started) for one in made))

    async def _converse(self, one: Conversation, started: float) -> None:
        await asyncio.sleep(max(0.0, started + one.start_s * self._slowdown - time.perf_counter()))
        prompt = list(one.document)
        for number, turn in enumerate(one.turns):
            await asyncio.sleep(turn.think_s * self._slowdown)
            if not await self._turn(one, number, turn, prompt):
                return

    async def _turn(self, one: Conversation, number: int, turn: Turn, prompt: list[int]) -> bool:
        """Play a turn and append it to the prompt; return whether the conversation can go on."""
        prompt += turn.token_ids
        name = f"{one.name}-{number}"
        answer = await self._call(one, name, "base", self._base, prompt, ANSWER_TOKENS)
        if answer is None:
            return False
        prompt += self._words.tokens_of(answer.text)
        await asyncio.gather(
            *(
                self._call(one, f"{name}-{model}", kind, model, prompt, EVALUATOR_TOKENS)
                for kind, model in self._evaluators
            )
        )
        return True

    async def _call(
        self, one: Conversation, name: str, kind: Kind, model: str, prompt: list[int], max_tokens: int
    ) -> Streamed | None:
        session = {SESSION_HEADER: one.name} if self._with_session else None
        try:
            answer = await self._client.complete(name, model, prompt, max_tokens, session)
        except CallFailedError as error:
            self.errors.append(error.message[:300])
            return None
        self.answers.append(answer)
        self.kinds[name] = kind
        return answer


@dataclass(frozen=True, slots=True)
class LivePlay:
    """What to play.

    Args:
        rate_per_s: new conversations a second.
        seed: of the conversations.
        with_session: send session ids.
        slowdown: real seconds for each of the model's, at least 1.
    """

    rate_per_s: float
    seed: int = 0
    with_session: bool = False
    slowdown: float = 1.0


def slowed(times: Calibration, slowdown: float) -> Calibration:
    """Return the calibration of an engine that takes ``slowdown`` times as long for everything."""
    prefill = {name: value * slowdown for name, value in times.prefill.model_dump().items()}
    decode = {name: value * slowdown for name, value in times.decode.model_dump().items()}
    adapters = times.adapters.model_dump() | {"load_s": times.adapters.load_s * slowdown}
    return Calibration(**times.model_dump() | {"prefill": prefill, "decode": decode, "adapters": adapters})


def run_live(plan: FleetPlan, url: str, headers: dict[str, str], play: LivePlay) -> LiveResult:
    """Play conversations on a platform that nothing has used yet, in the process that started it.

    Args:
        plan: the platform's; its calibration is slowed already.
        url: of its HTTP API.
        headers: with the API key, if there is one.
        play: what to play.
    """
    address = urlsplit(url)
    client = LightClient(address.hostname or "", address.port or 0, headers)
    run = LiveRun(plan, client, with_session=play.with_session, slowdown=play.slowdown)
    idle = asyncio.run(run.idle(play.seed))
    before, started = _cpu_s(), time.perf_counter()
    made = conversations(play.rate_per_s, play.seed)
    asyncio.run(run.play(made))
    seconds = time.perf_counter() - started
    cpu_s = {part: round(after - before.get(part, 0.0), 2) for part, after in _cpu_s().items()}
    result = LiveResult(plan.settings.policy, play.rate_per_s, slowdown=play.slowdown, seconds=seconds, cpu_s=cpu_s)
    result.failed, result.errors = len(run.errors), run.errors[:5]
    result.hit_bound = hit_bound(made, plan.keyspace.block_tokens)
    served = _served()
    result.gateway_idle_p50_s = _quantile([one.ttft_s - served[one.request_id] for one in idle], 0.5)
    if run.answers:
        sum_up(result, run.answers, run.kinds, served)
    return result


def sum_up(result: LiveResult, answers: Sequence[Streamed], kinds: dict[str, Kind], served: dict[str, float]) -> None:
    """Fill a result with what came of a run's calls.

    Args:
        result: to fill; its slowdown is known.
        answers: at least one.
        kinds: of each call, by its id.
        served: each call's TTFT in its engine, in real seconds.
    """
    slowdown = result.slowdown
    ttft_s = [one.ttft_s / slowdown for one in answers]
    engine_s = [served[one.request_id] / slowdown for one in answers]
    base_s = [served[one.request_id] / slowdown for one in answers if kinds[one.request_id] == "base"]
    gateway_s = [one.ttft_s - served[one.request_id] for one in answers]
    result.calls = len(answers)
    result.hit_share = _hit_share(answers)
    result.hit_share_by_kind = {
        kind: _hit_share([one for one in answers if kinds[one.request_id] == kind])
        for kind in sorted(set(kinds.values()))
    }
    result.ttft_p50_s, result.ttft_p90_s = _quantile(ttft_s, 0.5), _quantile(ttft_s, 0.9)
    result.engine_ttft_p50_s, result.engine_ttft_p90_s = _quantile(engine_s, 0.5), _quantile(engine_s, 0.9)
    result.base_ttft_p90_s = _quantile(base_s, 0.9)
    result.gateway_p50_s, result.gateway_p90_s = _quantile(gateway_s, 0.5), _quantile(gateway_s, 0.9)
    result.calls_per_replica = dict(sorted(Counter(one.replica for one in answers).items()))
    result.decided_by = dict(Counter(one.policy for one in answers))


def _hit_share(answers: Sequence[Streamed]) -> float:
    return sum(one.cached_tokens for one in answers) / sum(one.prompt_tokens for one in answers)


def _quantile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


def _served() -> dict[str, float]:
    """Return each call's TTFT in its engine, by the id that the client gave it."""
    from ray import serve

    from aloraserve_services.fleet import APP
    from aloraserve_services.gateway.app import ENGINE

    handle = serve.get_deployment_handle(ENGINE, APP)
    # No event loop runs here for its router.
    handle._init(_run_router_in_separate_loop=True)
    handle = handle.options(method_name="served")
    found: dict[str, float] = {}
    for replica in replica_ids():
        for request_id, ttft_s in handle.remote(rank=[replica]).result(timeout_s=SERVED_TIMEOUT_S):
            # The gateway appends an id of the attempt; of several the last one answered.
            found[request_id.rpartition("-")[0]] = ttft_s
    return found


def replica_ids() -> list[str]:
    """Return the ids of the engine replicas that Serve has now; this process is connected to it."""
    from ray import serve

    from aloraserve_services.fleet import APP
    from aloraserve_services.gateway.app import ENGINE

    details = serve.context._get_global_client().get_serve_details()
    replicas = details["applications"][APP]["deployments"][ENGINE]["replicas"]
    return [one["replica_id"] for one in replicas]


def _cpu_s() -> dict[str, float]:
    """Return the CPU time that each part has used so far, "client" this process."""
    found: dict[str, float] = {"client": sum(psutil.Process().cpu_times()[:2])}
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            command = " ".join(process.cmdline())
            part = next((part for sign, part in _PARTS.items() if sign in command), "ray")
            found[part] = found.get(part, 0.0) + sum(process.cpu_times()[:2])
    return found


def show_results(console: Any, results: Sequence[LiveResult]) -> None:
    """Print one line a policy and rate."""
    from rich.table import Table

    table = Table(title="live routing, times in ms", title_justify="left", box=None, padding=(0, 1, 0, 0))
    times = ("TTFT\np50", "TTFT\np90", "engine\np50", "engine\np90", "gw\np50", "gw\np90", "gw\nidle")
    for column in ("policy", "rate", "hits", "bound", *times, "failed"):
        table.add_column(column, justify="left" if column == "policy" else "right", no_wrap=True)
    for one in results:
        values = (
            one.ttft_p50_s,
            one.ttft_p90_s,
            one.engine_ttft_p50_s,
            one.engine_ttft_p90_s,
            one.gateway_p50_s,
            one.gateway_p90_s,
            one.gateway_idle_p50_s,
        )
        shown = [f"{1000 * value:,.0f}" for value in values]
        table.add_row(
            one.policy, f"{one.rate_per_s:g}/s", f"{one.hit_share:.3f}", f"{one.hit_bound:.3f}", *shown, str(one.failed)
        )
    console.print(table)
    console.print("gw: the gateway's own latency, the client's TTFT less the engine's", style="dim")


def write_results(path: Path, results: Sequence[LiveResult], seed: int) -> None:
    """Write the results as JSON."""
    content = {"seed": seed, "runs": [asdict(one) for one in results]}
    path.write_text(json.dumps(content, indent=1) + "\n", "utf-8")
