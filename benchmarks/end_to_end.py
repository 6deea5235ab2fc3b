"""``make bench-e2e``: TTFT through HTTP of the same prompts as aLoRA and as plain LoRA, on a platform of its own.

Random: the prompts' token ids and their length within one block, from the seed, and which of the two kinds goes first.
Equal: token ids, weights, rank, the engine's LoRA kernels, the warm-up, one call at a time.
"""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from aloraserve.wire.answer_stream import StreamedAnswer
from aloraserve_services.cli.client import StreamingClient
from aloraserve_services.cli.console import out
from aloraserve_services.cli.options import ChosenSettings, JsonFile, PromptSeed, prompt_lengths, takes_settings
from aloraserve_services.models.hardware import describe_machine
from aloraserve_services.plan import FleetPlan
from benchmarks.harness.command import run_command
from benchmarks.harness.report import make_table, milliseconds, write_json
from benchmarks.harness.stats import median_of

TURN_TOKENS = 100
ALORA, LORA = "safety", "safety-lora"


@takes_settings("model", "replicas", "port", "redis_url", "state_dir", "dtype")
def bench(
    chosen: ChosenSettings,
    lengths: Annotated[str, typer.Option(help="Prompt lengths in tokens, separated by commas.")] = "500,2000",
    rounds: Annotated[int, typer.Option(min=1, max=1000, help="Prompts per length.")] = 5,
    seed: PromptSeed = 0,
    json: JsonFile = None,
) -> None:
    """Measure TTFT of aLoRA and LoRA through HTTP on a platform of its own."""
    from aloraserve_services.cli.own_platform import own_platform, own_settings

    settings = own_settings(chosen, json)
    wanted = prompt_lengths(lengths, settings)
    with own_platform(settings) as platform, StreamingClient(platform.url, platform.headers) as client:
        content = run_bench(platform.plan, client, out, lengths=wanted, rounds=rounds, seed=seed)
    write_json(json, content)


@dataclass(frozen=True, slots=True)
class Round:
    """One prompt's TTFT, in seconds, and what was cached.

    Args:
        prompt_tokens: of the adapters' first calls.
        base_s: the base model's on the cold prompt.
        alora_s: the aLoRA's on the prefix that the base model has just computed.
        lora_first_s: the plain LoRA's first call on it.
        alora_later_s: the aLoRA's after the conversation grew by ``TURN_TOKENS``, which the base model computed.
        lora_returning_s: the plain LoRA's on the same, with its own blocks of its first call cached.
        alora_cached: prompt tokens of the aLoRA's first call that were not prefilled.
    """

    prompt_tokens: int
    base_s: float
    alora_s: float
    lora_first_s: float
    alora_later_s: float
    lora_returning_s: float
    alora_cached: int


class Bench:
    """Runs rounds against a running platform.

    Args:
        plan: of that platform.
        client: for its HTTP API.
        seed: of what is random.
    """

    def __init__(self, plan: FleetPlan, client: StreamingClient, seed: int) -> None:
        self._base = plan.served_name
        self._client = client
        self._chooser = random.Random(seed)  # noqa: S311
        self._block = plan.keyspace.block_tokens
        invocations = {version.name: version.invocation_ids for version in plan.open_registry().all()}
        self._invocation = list(invocations.get(ALORA, ()))
        self._refused = set(self._invocation)

    def warm_up(self) -> None:
        """Make each kind of call once, on prompts that are not used again."""
        self.round(2 * self._block)

    def round(self, length: int) -> Round:
        """Measure one fresh prompt of about ``length`` tokens."""
        prompt = self._tokens(length + self._chooser.randrange(self._block))
        grown = prompt + self._tokens(TURN_TOKENS)
        base = self._call(self._base, prompt)
        first = self._both(prompt)
        self._call(self._base, grown)
        later = self._both(grown)
        return Round(
            prompt_tokens=first[ALORA].prompt_tokens,
            base_s=base.ttft_s,
            alora_s=first[ALORA].ttft_s,
            lora_first_s=first[LORA].ttft_s,
            alora_later_s=later[ALORA].ttft_s,
            lora_returning_s=later[LORA].ttft_s,
            alora_cached=first[ALORA].cached_tokens,
        )

    def _both(self, prompt: list[int]) -> dict[str, StreamedAnswer]:
        kinds = [ALORA, LORA]
        self._chooser.shuffle(kinds)
        return {kind: self._call(kind, prompt + self._invocation) for kind in kinds}

    def _call(self, model: str, token_ids: list[int]) -> StreamedAnswer:
        # Two tokens: an answer of one waits until the end of its prefill is published, which is not part of TTFT.
        return self._client.complete(model, token_ids, 2)

    def _tokens(self, count: int) -> list[int]:
        chosen = [self._chooser.randrange(100, 40_000) for _ in range(count)]
        return [token if token not in self._refused else 99 for token in chosen]


@dataclass(frozen=True, slots=True)
class Medians:
    """Medians over a length's rounds."""

    prompt_tokens: float
    base_s: float
    alora_s: float
    lora_first_s: float
    lora_first_to_alora: float
    lora_returning_s: float
    lora_returning_to_alora: float

    @classmethod
    def of(cls, rounds: list[Round]) -> Medians:
        """Return the medians; ratios are of medians, as the tables elsewhere have them."""
        alora = median_of(rounds, lambda measured: measured.alora_s)
        first = median_of(rounds, lambda measured: measured.lora_first_s)
        later = median_of(rounds, lambda measured: measured.alora_later_s)
        returning = median_of(rounds, lambda measured: measured.lora_returning_s)
        return cls(
            prompt_tokens=median_of(rounds, lambda measured: measured.prompt_tokens),
            base_s=median_of(rounds, lambda measured: measured.base_s),
            alora_s=alora,
            lora_first_s=first,
            lora_first_to_alora=first / alora,
            lora_returning_s=returning,
            lora_returning_to_alora=returning / later,
        )


def table(found: list[Medians], rounds: int) -> Table:
    """Return the result for people."""
    heads = ("prompt", "base cold", "aLoRA", "LoRA first", "ratio", "LoRA returning", "ratio")
    shown = make_table(f"TTFT through HTTP, medians of {rounds}, LoRA : aLoRA", heads)
    for medians in found:
        shown.add_row(
            f"{medians.prompt_tokens:,.0f}",
            milliseconds(medians.base_s),
            milliseconds(medians.alora_s),
            milliseconds(medians.lora_first_s),
            f"{medians.lora_first_to_alora:.1f}x",
            milliseconds(medians.lora_returning_s),
            f"{medians.lora_returning_to_alora:.1f}x",
        )
    return shown


def run_bench(
    plan: FleetPlan, client: StreamingClient, console: Console, *, lengths: list[int], rounds: int, seed: int
) -> dict[str, Any]:
    """Measure, print as it goes and at the end, and return everything for JSON."""
    rounds_runner = Bench(plan, client, seed)
    rounds_runner.warm_up()
    measured: dict[int, list[Round]] = {length: [] for length in lengths}
    for number in range(1, rounds + 1):
        for length in lengths:
            found = rounds_runner.round(length)
            measured[length].append(found)
            console.print(_line(number, rounds, found), soft_wrap=True)
    medians = [Medians.of(measured[length]) for length in lengths]
    console.print(table(medians, rounds))
    fleet = f"{plan.served_name} in {plan.dtype}, {plan.settings.replicas} replicas"
    console.print(f"{fleet}, {describe_machine()}; seed {seed}")
    return {
        "machine": describe_machine(),
        "model": plan.served_name,
        "dtype": plan.dtype,
        "replicas": plan.settings.replicas,
        "seed": seed,
        "medians": [asdict(of_length) for of_length in medians],
        "rounds": {str(length): [asdict(found) for found in rounds_of] for length, rounds_of in measured.items()},
    }


def _line(number: int, rounds: int, found: Round) -> str:
    return (
        f"round {number}/{rounds}  {found.prompt_tokens:>6,} tokens  aLoRA {found.alora_s * 1000:>6,.0f} ms  "
        f"LoRA first {found.lora_first_s * 1000:>7,.0f} ms  returning {found.lora_returning_s * 1000:>7,.0f} ms"
    )


if __name__ == "__main__":
    run_command(bench)
