"""A decision in metrics and spans."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from aloraserve.blocks import KeySpace
from aloraserve.directory.memory import MemoryDirectory
from aloraserve.errors import DirectoryUnavailableError
from aloraserve.routing.base import Call, Decision, Estimate
from aloraserve.routing.breaker import Breaker
from aloraserve.routing.placement import ClaimOutcome, FallbackCause, Placement
from aloraserve.routing.policies import make_policy
from aloraserve.routing.router import Router
from aloraserve.telemetry.decision import decision_attributes

SPACE = KeySpace("m", "t", 4)
CALL = Call(8, 4, [b"a" * 16, b"b" * 16])


class Unhelpful(MemoryDirectory):
    def __init__(self, how: str) -> None:
        super().__init__()
        self._how = how

    async def lookup(self, keys: Any) -> Any:
        if self._how == "slow":
            await asyncio.Event().wait()
        if self._how == "unreachable":
            raise DirectoryUnavailableError("gone")
        return []


@pytest.mark.parametrize("cause", FallbackCause)
async def test_every_cause_of_a_fallback_is_a_label_and_has_words(cause: FallbackCause) -> None:
    breaker = Breaker()
    how = cause.value
    if cause is FallbackCause.BREAKER_OPEN:
        while breaker.allow():
            breaker.fail()
    policy = make_policy("expected-ttft", seed=1)
    router = Router(Unhelpful(how), policy, SPACE, budget_s=0.005, known_replicas=lambda: ["a"], breaker=breaker)
    placement = await router.place(CALL, "c")
    assert placement.fallback is cause
    assert placement.fallback_reason == cause.message(0.005)
    assert placement.decision.reason.startswith(f"{placement.fallback_reason}; ")
    assert decision_attributes(placement)["aloraserve.fallback"] == cause.value


def test_a_span_says_who_was_chosen_and_why() -> None:
    estimates = (
        Estimate("id-a", "engine-0", 0.25, 64, 10, queue_s=0.05, prefill_s=0.2),
        Estimate("id-b", "b", 1, 0, 0),
    )
    decision = Decision("expected-ttft", "holds 64 of 100 tokens", estimates)
    found = decision_attributes(Placement(decision, "id-a", ClaimOutcome.CLAIMED, lookup_s=0.002))
    assert found["aloraserve.replica"] == "engine-0"
    assert found["aloraserve.reason"] == "holds 64 of 100 tokens"
    assert found["aloraserve.estimate.overlap_tokens"] == 64
    assert found["aloraserve.estimate.queue_s"] == 0.05
    assert (found["aloraserve.claim"], found["aloraserve.lookup_ms"], found["aloraserve.candidates"]) == (
        "claimed",
        2,
        2,
    )
    assert "aloraserve.fallback" not in found
    assert "id-a" not in str(found)
