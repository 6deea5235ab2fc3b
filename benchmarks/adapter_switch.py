"""An alias that is switched back and forth under streams: what failed, what was mixed, and what came too late."""

from __future__ import annotations

import asyncio
import itertools
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from aloraserve.wire.answer_stream import CallFailedError
from benchmarks.adapter_fleet import ALIAS, AdapterFleet
from benchmarks.harness.client import AsyncStreamingClient
from benchmarks.harness.report import Figure

STALE_S = 2.0
"""A call that is sent so long after a switch was done, and meets the former version, is stale."""
PROMPTS, PROMPT_TOKENS, ANSWER_TOKENS = 8, 400, 32
MAX_PROMPTS = 40
"""That are drawn: an untrained adapter of a real model may answer some as another one does."""
TOKEN_IDS = (100, 40_000)


@dataclass(frozen=True, slots=True)
class Switch:
    """A change of the alias.

    Args:
        version: that it points to from now on.
        asked: when, on the clock of ``time.perf_counter``.
        done: when the platform said that it is done.
    """

    version: str
    asked: float
    done: float


@dataclass(frozen=True, slots=True)
class AliasCall:
    """A call of the alias.

    Args:
        sent: when, on the clock of ``time.perf_counter``.
        ended: likewise.
        version: whose answer it got; empty: neither's, or both's.
    """

    sent: float
    ended: float
    version: str


@dataclass(slots=True)
class SwitchLog:
    """What happened to an alias and its calls.

    Args:
        switches: in their order, the first before any call.
        calls: that were answered.
        failed: messages of those that were not.
    """

    switches: list[Switch]
    calls: list[AliasCall] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    @property
    def mixed(self) -> int:
        """Answers that are not one version's from their first token to the last."""
        return sum(not call.version for call in self.calls)

    @property
    def stale(self) -> int:
        """Answers of a version that the alias had left :data:`STALE_S` before the call was sent."""
        return sum(bool(call.version) and call.version not in self._possible(call) for call in self.calls)

    @property
    def late_s(self) -> list[float]:
        """For each switch, how long after it was done a call was sent that still met the former version; 0: none."""
        pairs = itertools.pairwise(self.switches)
        ends = [switch.asked for switch in self.switches[2:]] + [float("inf")]
        return [self._late(former, switch, end) for (former, switch), end in zip(pairs, ends, strict=True)]

    def _late(self, former: Switch, switch: Switch, end: float) -> float:
        # One that ended after the next switch may have met that one's version, which is the former again.
        met = [call.sent for call in self.calls if call.ended < end and call.version == former.version]
        return max([0.0, *(sent - switch.done for sent in met)])

    def _possible(self, call: AliasCall) -> set[str]:
        """Return the versions that the alias pointed to from :data:`STALE_S` before a call was sent to its end."""
        left = [switch.done for switch in self.switches[1:]] + [float("inf")]
        return {
            switch.version
            for switch, until in zip(self.switches, left, strict=True)
            if switch.asked <= call.ended and until >= call.sent - STALE_S
        }


class SwitchBench:
    """Plays streams on an alias and switches it.

    Prompts are few, so that calls of both versions meet what is cached of each other's.

    Args:
        fleet: that runs.
        client: of the same platform.
        versions: names of exactly two versions.
        streams: at once.
        switches: how often.
        every_s: from one switch to the next.
        seed: of the prompts, and of which stream sends which.
        progress: called with what happens.
    """

    def __init__(
        self,
        fleet: AdapterFleet,
        client: AsyncStreamingClient,
        versions: Sequence[str],
        *,
        streams: int,
        switches: int,
        every_s: float,
        seed: int,
        progress: Callable[[str], None],
    ) -> None:
        chooser = random.Random(seed)  # noqa: S311
        self._fleet = fleet
        self._client = client
        self._versions = versions
        self._streams = streams
        self._switches = switches
        self._every_s = every_s
        self._chooser = chooser
        self._prompts: list[list[int]] = []
        self._progress = progress
        self._numbers = itertools.count()

    async def run(self) -> list[Figure]:
        """Return the figures."""
        for version in self._versions[::-1]:
            first = await self._switch(version)
            # Then each gateway knows the version by its own name too.
            await self._fleet.everywhere(ALIAS, version)
        answers = await self._known()
        log = SwitchLog([first])
        self._progress(f"{self._streams} streams, {self._switches} switches")
        playing = [asyncio.create_task(self._play(answers, log)) for _ in range(self._streams)]
        for number in range(1, self._switches + 1):
            await asyncio.sleep(self._every_s)
            log.switches.append(await self._switch(self._versions[number % 2]))
        await asyncio.sleep(self._every_s)
        for task in playing:
            task.cancel()
        await asyncio.wait(playing)
        for message in log.failed[:3]:
            self._progress(f"failed: {message}")
        return switch_figures(log)

    async def _known(self) -> list[Mapping[str, str]]:
        """Draw prompts that the versions answer differently; return whose answer to each a text is."""
        found: list[Mapping[str, str]] = []
        for _ in range(MAX_PROMPTS):
            prompt = [self._chooser.randrange(*TOKEN_IDS) for _ in range(PROMPT_TOKENS)]
            known = {await self._answer(version, prompt): version for version in self._versions}
            if len(known) == len(self._versions):
                self._prompts.append(prompt)
                found.append(known)
            if len(found) == PROMPTS:
                return found
        raise CallFailedError(f"the versions answer {MAX_PROMPTS - len(found)} of {MAX_PROMPTS} prompts alike")

    async def _switch(self, version: str) -> Switch:
        asked = time.perf_counter()
        await self._fleet.point(ALIAS, version)
        return Switch(version, asked, time.perf_counter())

    async def _play(self, answers: Sequence[Mapping[str, str]], log: SwitchLog) -> None:
        while True:
            number = self._chooser.randrange(PROMPTS)
            sent = time.perf_counter()
            try:
                text = await self._answer(f"{self._fleet.name}@{ALIAS}", self._prompts[number])
            except CallFailedError as error:
                log.failed.append(error.message)
                continue
            log.calls.append(AliasCall(sent, time.perf_counter(), answers[number].get(text, "")))

    async def _answer(self, model: str, prompt: list[int]) -> str:
        return (await self._client.complete(f"switch-{next(self._numbers)}", model, prompt, ANSWER_TOKENS)).text


def switch_figures(log: SwitchLog) -> list[Figure]:
    """Return the figures of what happened."""
    return [
        Figure("switches", len(log.switches) - 1, ""),
        Figure("calls answered", len(log.calls), ""),
        Figure("calls failed", len(log.failed), "", 0),
        Figure("answers mixed", log.mixed, "", 0),
        Figure(f"answers of the former version, later than {STALE_S:g} s", log.stale, "", 0),
        Figure("last call to meet the former version, median after the switch", statistics.median(log.late_s), "s"),
        Figure("last call to meet the former version, worst", max(log.late_s), "s", STALE_S),
    ]
