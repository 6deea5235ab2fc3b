"""Answers that may be asked for once more: few, small, and not for long."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from starlette.responses import Response

REPLAYED_HEADER = "idempotent-replayed"
KEPT_S = 600.0
"""How long an answer can be had again: longer than any client goes on to try."""
MAX_ANSWERS = 4096
MAX_BYTES = 64 << 20
"""Of all answers that are kept."""
_OWN = "x-aloraserve-"


@dataclass(frozen=True, slots=True)
class KeptAnswer:
    """A whole answer.

    Args:
        request: digest of the request's body.
        body: JSON.
        headers: of the response, those of the transport left out.
    """

    request: str
    body: bytes
    headers: Mapping[str, str]

    @classmethod
    def of(cls, request: str, response: Response) -> KeptAnswer:
        """Return a response's answer."""
        own = {name: value for name, value in response.headers.items() if name.startswith(_OWN)}
        return cls(request, bytes(response.body), own)

    def response(self) -> Response:
        """Return it once more, marked as such."""
        headers = {**self.headers, REPLAYED_HEADER: "true"}
        return Response(self.body, media_type="application/json", headers=headers)


class _Kept(NamedTuple):
    """An answer, whose it is, and until when it is kept."""

    answer: KeptAnswer
    tenant: str
    until: float


@dataclass(slots=True)
class _Held:
    """Names of a tenant's answers, the oldest first, and their bytes."""

    names: OrderedDict[str, None] = field(default_factory=OrderedDict)
    bytes: int = 0


class KeptAnswers:
    """Answers by name, in this process's memory.

    Where there is no room for one more, the tenant that has most loses its oldest: none can have another's forgotten
    that has less than it.

    Args:
        max_bytes: see :data:`MAX_BYTES`.
        max_answers: see :data:`MAX_ANSWERS`.
        kept_s: see :data:`KEPT_S`.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        max_bytes: int = MAX_BYTES,
        max_answers: int = MAX_ANSWERS,
        kept_s: float = KEPT_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_bytes = max_bytes
        self._max_answers = max_answers
        self._kept_s = kept_s
        self._clock = clock
        self._answers: OrderedDict[str, _Kept] = OrderedDict()
        self._tenants: dict[str, _Held] = {}
        self._bytes = 0

    def get(self, name: str) -> KeptAnswer | None:
        """Return an answer, None if it is not kept any more."""
        self._forget_old()
        return self._answers[name].answer if name in self._answers else None

    def put(self, name: str, tenant: str, answer: KeptAnswer) -> None:
        """Keep an answer that was just given, in place of older ones; no other one has its name.

        Args:
            name: to find it by.
            tenant: whose it is.
            answer: to be kept.
        """
        self._answers[name] = _Kept(answer, tenant, self._clock() + self._kept_s)
        held = self._tenants.setdefault(tenant, _Held())
        held.names[name] = None
        held.bytes += len(answer.body)
        self._bytes += len(answer.body)
        self._forget_old()
        while self._bytes > self._max_bytes:
            self._forget_of(max(self._tenants.values(), key=lambda held: held.bytes))
        while len(self._answers) > self._max_answers:
            self._forget_of(max(self._tenants.values(), key=lambda held: len(held.names)))

    def _forget_old(self) -> None:
        now = self._clock()
        while self._answers and next(iter(self._answers.values())).until <= now:
            self._forget(next(iter(self._answers)))

    def _forget_of(self, held: _Held) -> None:
        self._forget(next(iter(held.names)))

    def _forget(self, name: str) -> None:
        answer, tenant, _ = self._answers.pop(name)
        held = self._tenants[tenant]
        del held.names[name]
        held.bytes -= len(answer.body)
        self._bytes -= len(answer.body)
        if not held.names:
            del self._tenants[tenant]
