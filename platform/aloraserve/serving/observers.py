"""Observers of calls: metrics, spans, receipts and savings stand behind this, from outside."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from aloraserve.routing.placement import Placement
from aloraserve.serving.engine_messages import EngineChunk
from aloraserve.serving.request import GenerationRequest

if TYPE_CHECKING:
    from aloraserve.serving.attempt import Attempt
    from aloraserve.serving.generation import Generation

EVENTS = ("accepted", "arrived", "placed", "claim_moved", "first_token", "more_tokens", "answered", "ended")


class CallObserver:
    """Base of observers; each overrides the events that it wants. No event may wait or raise.

    A call is accepted once and answered at most once. Between the two each attempt is placed, has a first token and
    more of them if all goes well, and ends in any case.
    """

    def accepted(self, request: GenerationRequest) -> None:
        """Note that a call is about to be placed."""

    def arrived(self, request: GenerationRequest, placement: Placement) -> None:
        """Note a call's first decision: once, however many attempts it takes."""

    def placed(self, request: GenerationRequest, placement: Placement) -> None:
        """Note a decision and its claim."""

    def claim_moved(self, request: GenerationRequest, placement: Placement) -> None:
        """Note that the claim went to another replica, which took the call."""

    def first_token(self, generation: Generation) -> None:
        """Note that a replica began to answer."""

    def more_tokens(self, generation: Generation, chunk: EngineChunk, itl_s: float | None) -> None:
        """Note a chunk after the first.

        Args:
            generation: that it belongs to.
            chunk: just arrived.
            itl_s: time per token since the chunk before, None if that is of another choice or there is none.
        """

    def answered(self, generation: Generation) -> None:
        """Note that the client's answer has begun and will not be replaced.

        That is the first token of a streamed answer, and the end of one that is not streamed.
        """

    def ended(self, attempt: Attempt, generation: Generation | None) -> None:
        """Note the end of an attempt; ``attempt.outcome`` is final.

        Args:
            attempt: that ended.
            generation: what it had begun, None without a first token.
        """


class CallObservers(CallObserver):
    """Several observers as one, asked in order; an event costs nothing where nobody wants it.

    Args:
        observers: in the order in which they are asked.
    """

    def __init__(self, observers: Sequence[CallObserver]) -> None:
        for event in EVENTS:
            setattr(
                self, event, _all_of([getattr(observer, event) for observer in observers if _wants(observer, event)])
            )


def _wants(observer: CallObserver, event: str) -> bool:
    return getattr(type(observer), event) is not getattr(CallObserver, event) or event in vars(observer)


def _all_of(methods: list[Callable[..., None]]) -> Callable[..., None]:
    if len(methods) == 1:
        return methods[0]

    def each(*arguments: object) -> None:
        for method in methods:
            method(*arguments)

    return each
