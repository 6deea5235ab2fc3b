"""Requests under which engines ended: each may be tried once more, alone; after a second end it is refused for a while.

A request that ends its engine would otherwise end one after the other, and with them all that ran there. Which of an
engine's calls it was is not known when it ends: all of them are suspects. So they are tried again one at a time, until
their first token: what ended the engine then ends the next one by itself, and the others are answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import secrets
import time
from array import array
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from aloraserve.errors import EngineEndingRequestError
from aloraserve.routing.receipts import Outcome
from aloraserve.serving.attempt import Attempt
from aloraserve.serving.generation import Generation
from aloraserve.serving.observers import CallObserver
from aloraserve.serving.request import GenerationRequest

MAX_ENDED = 2
"""Engines that may end under one request."""
REFUSED_S = 600.0
"""How long a request is remembered after an engine ended under it."""
MAX_SUSPECTS = 4096
TRIAL_S = 30.0
"""How long a suspect waits for the one before it to get its first token."""


EXPLAINED = 64
"""Engines that are remembered whose end a suspect on trial explains."""


@dataclass(slots=True)
class _Suspect:
    until: float
    ended: set[str] = field(default_factory=set)
    """Replicas whose engines ended under it: each has one engine, and an id of its own."""


@dataclass(slots=True)
class Trial:
    """The attempt of a suspect that is tried alone."""

    attempt: Attempt | None = None


class Suspects(CallObserver):
    """Remembers requests under which engines ended, in this process. For one event loop.

    What it keeps of a request is a digest with a key of its own: nothing of a prompt can be found out from it. A
    request that is answered is not suspected any more.

    Args:
        refused_s: see :data:`REFUSED_S`.
        trial_s: see :data:`TRIAL_S`.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        *,
        refused_s: float = REFUSED_S,
        trial_s: float = TRIAL_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._refused_s = refused_s
        self._trial_s = trial_s
        self._clock = clock
        self._key = secrets.token_bytes(32)
        self._found: OrderedDict[bytes, _Suspect] = OrderedDict()
        self._turn = asyncio.Lock()
        self._trial: Trial | None = None
        self._explained: deque[str] = deque(maxlen=EXPLAINED)

    def ended(self, attempt: Attempt, generation: Generation | None) -> None:
        """Note an attempt's end: under an engine that ended, or with an answer."""
        if attempt.engine_ended:
            self._note_end(attempt)
        elif self._found and attempt.outcome is Outcome.ANSWERED:
            self._found.pop(self._digest(attempt.request), None)

    def check(self, request: GenerationRequest) -> None:
        """Refuse a request under which too many engines ended.

        Raises:
            EngineEndingRequestError: see above.
        """
        suspect = self._known(request)
        if suspect is not None and len(suspect.ended) >= MAX_ENDED:
            raise EngineEndingRequestError(
                f"{len(suspect.ended)} engines ended while they answered this request; it is refused for "
                f"{max(1.0, suspect.until - self._clock()):.0f} s"
            )

    @contextlib.asynccontextmanager
    async def trial(self, request: GenerationRequest) -> AsyncIterator[Trial]:
        """Have a suspect begin while no other one does; for other requests, and while there are none, do nothing."""
        trial = Trial()
        if self._known(request) is None or not await self._wait_for_turn():
            yield trial
            return
        self._trial = trial
        try:
            yield trial
        finally:
            self._trial = None
            self._turn.release()

    async def _wait_for_turn(self) -> bool:
        """Return whether it is this one's turn; if not, the one before takes too long."""
        try:
            async with asyncio.timeout(self._trial_s):
                return await self._turn.acquire()
        except TimeoutError:
            return False

    def _note_end(self, attempt: Attempt) -> None:
        """Suspect a request, unless one that is on trial explains the engine's end."""
        replica = attempt.replica
        if replica in self._explained:
            # Also whoever was sent to that engine since: it is gone.
            return
        tried = None if self._trial is None else self._trial.attempt
        if tried is not None and tried.replica == replica:
            self._explained.append(replica)
            attempt = tried
        self._suspect(self._digest(attempt.request), replica)

    def _suspect(self, digest: bytes, replica: str) -> None:
        now = self._clock()
        known = self._found.pop(digest, None)
        self._found[digest] = suspect = known if known is not None and known.until > now else _Suspect(now)
        suspect.until = now + self._refused_s
        suspect.ended.add(replica)
        if len(self._found) > MAX_SUSPECTS:
            self._found.popitem(last=False)

    def _known(self, request: GenerationRequest) -> _Suspect | None:
        if not self._found:
            return None
        suspect = self._found.get(self._digest(request))
        return suspect if suspect is not None and suspect.until > self._clock() else None

    def _digest(self, request: GenerationRequest) -> bytes:
        digest = hashlib.blake2b(array("q", request.token_ids), key=self._key, digest_size=16)
        adapter = "" if request.adapter is None else request.adapter.key
        digest.update(repr((adapter, request.origin.caller.cache_salt, request.sampling)).encode())
        return digest.digest()
