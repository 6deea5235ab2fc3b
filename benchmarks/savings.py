"""``make bench-savings``: estimated savings against measured ones, an aLoRA's calls against its plain LoRA twin's.

What an aLoRA call saved cannot be measured on the call itself. Its twin, a plain LoRA of the same rank and weights,
is what the estimate is about: its cache is keyed by adapter and it applies to the whole prompt. So the twin's TTFT on
an equally long prompt in the same state, less the aLoRA's TTFT, is what the aLoRA call really saved.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from aloraserve.errors import SettingsError
from aloraserve.wire.answer_stream import CallFailedError, StreamedAnswer
from aloraserve_services.cli.client import StreamingClient
from aloraserve_services.cli.console import EXIT_FAILED, err, out
from aloraserve_services.cli.options import ChosenSettings, JsonFile, PromptSeed, prompt_lengths, takes_settings
from aloraserve_services.cli.reaching import client_of
from aloraserve_services.cli.status import fetch
from aloraserve_services.local.address import authorization, base_url
from aloraserve_services.models.hardware import describe_machine
from aloraserve_services.models.untrained import TWIN_SUFFIX
from benchmarks.harness.command import run_command
from benchmarks.harness.report import make_table, milliseconds, write_json
from benchmarks.harness.stats import median_of

TURN_TOKENS = 200
RESERVED_TOKENS = 384
"""Of the context, for the turn, the invocation, the answer and the part of a block by which lengths differ."""
FIRST, RETURNING = "first", "returning"


@takes_settings("model", "replicas", "port", "redis_url", "state_dir", "dtype")
def verify_savings(
    chosen: ChosenSettings,
    lengths: Annotated[
        str, typer.Option(help="Prompt lengths in tokens, separated by commas.")
    ] = "200,500,1000,2000,4000,7500",
    rounds: Annotated[int, typer.Option(min=1, max=1000, help="Conversations per length.")] = 3,
    seed: PromptSeed = 0,
    max_error: Annotated[float, typer.Option(min=0, help="Above this median relative error the exit code is 1.")] = 0.1,
    max_bias: Annotated[
        float, typer.Option(min=0, help="The same for the estimates' sum by the real one, less 1.")
    ] = 0.05,
    url: Annotated[str | None, typer.Option(help="An idle platform that runs; default: one of its own.")] = None,
    json: JsonFile = None,
) -> None:
    """Check the savings that the platform reports against those of plain LoRA twins, one call at a time."""
    from aloraserve_services.cli.own_platform import own_platform, own_settings

    settings = own_settings(chosen, json)
    wanted = prompt_lengths(lengths, settings, RESERVED_TOKENS)
    headers, is_elsewhere = authorization(settings), url is not None
    with contextlib.ExitStack() as stack:
        if url is None:
            stack.enter_context(own_platform(settings))
        address = (url or base_url(settings)).rstrip("/")
        with client_of(address, headers, is_elsewhere=is_elsewhere) as platform:
            target = Target.of(fetch(platform))
        client = stack.enter_context(StreamingClient(address, headers, is_elsewhere=is_elsewhere))
        samples, verdict = run_verification(target, client, out, lengths=wanted, rounds=rounds, seed=seed)
    write_json(json, content(target, samples, verdict, seed))
    if not verdict.holds(max_error, max_bias):
        err.print(f"above {max_error:.0%} error or {max_bias:.0%} bias", style="red")
        raise typer.Exit(EXIT_FAILED)


@dataclass(frozen=True, slots=True)
class Target:
    """The models that are called.

    Args:
        base: the base model's name.
        alora: name of an aLoRA adapter.
        twin: name of its plain LoRA twin.
        block_tokens: of the fleet.
        replicas: how many there are.
        dtype: of the weights.
    """

    base: str
    alora: str
    twin: str
    block_tokens: int
    replicas: int
    dtype: str

    @classmethod
    def of(cls, status: dict[str, Any]) -> Target:
        """Return the target of a platform.

        Args:
            status: what ``GET /v1/replicas`` answers.

        Raises:
            SettingsError: no aLoRA adapter has a plain LoRA twin.
        """
        kinds = {adapter["name"]: adapter["kind"] for adapter in status["adapters"]}
        for name, kind in kinds.items():
            if kind == "alora" and kinds.get(name + TWIN_SUFFIX) == "lora":
                replicas = len(status["replicas"])
                return cls(status["model"], name, name + TWIN_SUFFIX, status["block_tokens"], replicas, status["dtype"])
        served = ", ".join(kinds) or "none"
        raise SettingsError(
            f"adapters are {served}; an aLoRA adapter NAME and its plain LoRA twin NAME{TWIN_SUFFIX} are needed"
        )


@dataclass(frozen=True, slots=True)
class Sample:
    """One aLoRA call and its twin's.

    Args:
        length: asked for.
        state: ``first`` call on a conversation, or ``returning`` after the conversation grew by a turn.
        prompt_tokens: of both prompts.
        base_s: TTFT of the base model's call before, which computed what the twin's call had to but the invocation.
        alora_s: TTFT of the aLoRA call as the client saw it.
        twin_s: TTFT of the twin.
        estimated_s: saved TTFT as the platform reports it.
        confidence: of that estimate, likewise.
    """

    length: int
    state: str
    prompt_tokens: int
    base_s: float
    alora_s: float
    twin_s: float
    estimated_s: float
    confidence: float

    @property
    def real_s(self) -> float:
        """TTFT that the aLoRA call saved."""
        return self.twin_s - self.alora_s

    @property
    def error(self) -> float:
        """Relative error of the estimate, without its sign."""
        return abs(self.estimated_s - self.real_s) / max(abs(self.real_s), 1e-9)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Errors over samples.

    Args:
        samples: how many.
        median_error: the median of their relative errors.
        bias: sum of the estimates by the sum of what was real, less 1.
    """

    samples: int
    median_error: float
    bias: float

    @classmethod
    def of(cls, samples: Sequence[Sample]) -> Verdict:
        """Return the verdict on at least one sample."""
        real_s = sum(sample.real_s for sample in samples)
        estimated_s = sum(sample.estimated_s for sample in samples)
        return cls(len(samples), median_of(samples, lambda sample: sample.error), estimated_s / real_s - 1)

    def holds(self, max_error: float, max_bias: float) -> bool:
        """Whether both errors are within their limits; a bias counts either way."""
        return self.median_error <= max_error and abs(self.bias) <= max_bias


class Verification:
    """Takes samples on a running, idle platform, one call at a time.

    Args:
        target: what is called.
        client: for its HTTP API.
        seed: of the prompts' token ids and their lengths within one block.
    """

    def __init__(self, target: Target, client: StreamingClient, seed: int) -> None:
        self._target = target
        self._client = client
        self._chooser = random.Random(seed)  # noqa: S311

    def warm_up(self, lengths: Sequence[int]) -> None:
        """Have every kind called once, and cold prefills of each length but the longest learned.

        Fresh prompts go to idle replicas in no order that a client could choose: each length is called as often as
        there are replicas. The longest takes most of the time, and each conversation begins with one anyhow.
        """
        for model in (self._target.alora, self._target.twin):
            self._call(model, self._tokens(2 * self._target.block_tokens))
        for length in sorted(lengths)[:-1]:
            for _ in range(self._target.replicas):
                self._call(self._target.base, self._tokens(length))

    def sample(self, length: int) -> list[Sample]:
        """Return the samples of one conversation: one a state, without those whose calls came apart."""
        conversation = self._tokens(length + self._chooser.randrange(self._target.block_tokens))
        base = self._call(self._target.base, conversation)
        alora = self._call(self._target.alora, conversation)
        tail = self._tokens(alora.prompt_tokens - len(conversation))
        others = self._tokens(len(conversation))
        twin = self._call(self._target.twin, others + tail)
        found = [self._sample(length, FIRST, base, alora, twin)] if alora.replica == base.replica else []
        turn = self._tokens(TURN_TOKENS)
        grown = self._call(self._target.base, conversation + turn)
        later = self._call(self._target.alora, conversation + turn)
        twin_later = self._call(self._target.twin, others + turn + tail)
        stayed = alora.replica == base.replica == grown.replica == later.replica
        if stayed and twin_later.replica == twin.replica:
            found.append(self._sample(length, RETURNING, grown, later, twin_later))
        return found

    def _sample(
        self, length: int, state: str, base: StreamedAnswer, alora: StreamedAnswer, twin: StreamedAnswer
    ) -> Sample:
        if alora.saved_s is None:
            raise CallFailedError("an answer has no x-aloraserve-saved-ttft-ms: the platform does not estimate savings")
        return Sample(
            length=length,
            state=state,
            prompt_tokens=alora.prompt_tokens,
            base_s=base.ttft_s,
            alora_s=alora.ttft_s,
            twin_s=twin.ttft_s,
            estimated_s=alora.saved_s,
            confidence=alora.savings_confidence,
        )

    def _call(self, model: str, token_ids: list[int]) -> StreamedAnswer:
        # Two tokens: an answer of one waits until the end of its prefill is published, which is not part of TTFT.
        return self._client.complete(model, token_ids, 2)

    def _tokens(self, count: int) -> list[int]:
        return [self._chooser.randrange(100, 40_000) for _ in range(count)]


def table(samples: Sequence[Sample]) -> Table:
    """Return the medians by length and state."""
    heads = ("length", "state", "estimated", "real", "error", "confidence")
    shown = make_table("TTFT saved by aLoRA calls, medians", heads, left=("state",))
    for state in (FIRST, RETURNING):
        for length in dict.fromkeys(sample.length for sample in samples):
            here = [sample for sample in samples if (sample.length, sample.state) == (length, state)]
            if here:
                shown.add_row(
                    f"{median_of(here, lambda sample: sample.prompt_tokens):,.0f}",
                    state,
                    milliseconds(median_of(here, lambda sample: sample.estimated_s)),
                    milliseconds(median_of(here, lambda sample: sample.real_s)),
                    f"{median_of(here, lambda sample: sample.error):.1%}",
                    f"{median_of(here, lambda sample: sample.confidence):.2f}",
                )
    return shown


def run_verification(
    target: Target, client: StreamingClient, console: Console, *, lengths: list[int], rounds: int, seed: int
) -> tuple[list[Sample], Verdict]:
    """Take the samples, print them as they come and the verdict at the end, and return both.

    Raises:
        CallFailedError: a call failed, savings are not reported, or the calls of every sample came apart.
    """
    verification = Verification(target, client, seed)
    console.print("warming up: the replicas learn how long cold prefills of the base model take", soft_wrap=True)
    verification.warm_up(lengths)
    samples: list[Sample] = []
    for number in range(1, rounds + 1):
        for length in lengths:
            for sample in verification.sample(length):
                samples.append(sample)
                console.print(_line(number, rounds, sample), soft_wrap=True)
    if not samples:
        raise CallFailedError("no conversation's calls met on one replica: the platform is not idle, or has no policy")
    verdict = Verdict.of(samples)
    console.print(table(samples))
    left_out = 2 * rounds * len(lengths) - verdict.samples
    console.print(
        f"median relative error {verdict.median_error:.1%}, bias {verdict.bias:+.1%} of {verdict.samples} samples"
        + (f"; {left_out} left out, whose calls did not meet on one replica" if left_out else ""),
        soft_wrap=True,
    )
    console.print(
        f"{target.base} in {target.dtype}, {target.replicas} replicas, client on {describe_machine()}; seed {seed}",
        soft_wrap=True,
    )
    return samples, verdict


def _line(number: int, rounds: int, sample: Sample) -> str:
    return (
        f"round {number}/{rounds}  {sample.prompt_tokens:>6,} tokens  {sample.state:<9}  "
        f"aLoRA {sample.alora_s * 1000:>6,.0f} ms  LoRA {sample.twin_s * 1000:>7,.0f} ms  "
        f"saved {sample.real_s * 1000:>7,.0f} ms, estimated {sample.estimated_s * 1000:>7,.0f} ms"
    )


def content(target: Target, samples: Sequence[Sample], verdict: Verdict, seed: int) -> dict[str, Any]:
    """Return everything that was measured, for JSON."""
    return {
        "machine": describe_machine(),
        "target": asdict(target),
        "seed": seed,
        "verdict": asdict(verdict),
        "samples": [asdict(sample) | {"real_s": sample.real_s, "error": sample.error} for sample in samples],
    }


if __name__ == "__main__":
    run_command(verify_savings)
