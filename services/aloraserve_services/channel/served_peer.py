"""What other replicas ask this one for over its channel: its hottest prefixes, and to compute theirs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

import structlog

from aloraserve_services.channel.messages import Failed, Hottest, Message, Prefill, Prefilled, Prefixes

MAX_QUESTIONS = 4
"""Of one connection at a time; further ones are refused."""

log = structlog.get_logger(__name__)


class WarmReplica(Protocol):
    """A replica that others may ask. It may raise whatever goes wrong."""

    async def hottest(self) -> bytes:
        """Return its hottest prefixes, packed."""
        ...

    async def prefill(self, prefixes: bytes, budget_s: float) -> int:
        """Compute packed prefixes, as many as it can within so many seconds; return how many it has."""
        ...


class ServedPeer:
    """Answers the questions of one connection.

    Args:
        replica: that is asked; None: it answers none.
        send: puts a message on the connection.
    """

    def __init__(self, replica: WarmReplica | None, send: Callable[[Message], None]) -> None:
        self._replica = replica
        self._send = send
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, question: Hottest | Prefill) -> None:
        """Answer a question soon."""
        if self._replica is None or len(self._tasks) >= MAX_QUESTIONS:
            self._send(Failed(question.number, is_lost=False, cause="NotAnsweredError"))
            return
        task = asyncio.create_task(self._answer(self._replica, question))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def cancel(self) -> None:
        """Give up all: nobody reads the answers."""
        for task in self._tasks:
            task.cancel()

    async def _answer(self, replica: WarmReplica, question: Hottest | Prefill) -> None:
        answer: Message
        try:
            if isinstance(question, Hottest):
                answer = Prefixes(question.number, await replica.hottest())
            else:
                answer = Prefilled(question.number, await replica.prefill(question.prefixes, question.budget_s))
        except Exception as error:  # noqa: BLE001 - whatever it is, the other replica waits for an end
            cause = type(error).__name__
            log.warning("question_not_answered", question=type(question).__name__, cause=cause)
            answer = Failed(question.number, is_lost=False, cause=cause)
        self._send(answer)
