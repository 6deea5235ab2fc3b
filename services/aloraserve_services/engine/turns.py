"""Calls of a replica that wait until it is their tenant's turn to have one in the engine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from aloraserve.routing.fair_share import NO_TENANT, FairQueue, QueuedCall, Turn
from aloraserve.routing.scheduling import Scheduling
from aloraserve.serving.engine_messages import EngineCall
from aloraserve_services.engine.progress import Accepted


class Turns:
    """See the module's docstring; the order is :class:`~aloraserve.routing.fair_share.FairQueue`'s.

    Args:
        scheduling: of the engine.
        step_tokens: that it computes in a step at most, 0 if unknown.
        on_turn: called with a call's id and its number in the engine's queue.
    """

    def __init__(self, scheduling: Scheduling, step_tokens: int, on_turn: Callable[[str, float], None]) -> None:
        self._queue = FairQueue[str](scheduling, step_tokens)
        self._on_turn = on_turn
        self._waiting: dict[str, asyncio.Future[int]] = {}

    async def take(self, call: EngineCall, accepted: Accepted) -> int:
        """Return a call's priority in the engine when its turn has come: at once while its tenant is alone."""
        queued = QueuedCall(
            call.request_id,
            call.share or NO_TENANT,
            accepted.prefill_s,
            accepted.tokens,
            accepted.number_s,
            None if call.adapter is None else call.adapter.key,
        )
        turn = self._waiting[call.request_id] = asyncio.get_running_loop().create_future()
        self._give(self._queue.add(queued))
        return turn.result() if turn.done() else await turn

    def leave(self, call: EngineCall) -> None:
        """Note that a call's first token is out, or that it ended; a second time changes nothing."""
        self._waiting.pop(call.request_id, None)
        self._give(self._queue.leave(call.request_id))

    def _give(self, turns: Sequence[Turn[str]]) -> None:
        for turn in turns:
            self._on_turn(turn.call, turn.number_s)
            waiting = self._waiting.pop(turn.call, None)
            if waiting is not None and not waiting.done():
                waiting.set_result(turn.priority)
