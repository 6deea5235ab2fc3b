"""Answers that may be asked for once more: few, small, and not for long."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from starlette.responses import Response

REPLAYED_HEADER = "idempotent-replayed"
KEPT_S = 600.0
"""How long an answer can be had again: longer than any client goes on to try."""
MAX_ANSWERS = 4096
MAX_BYTES = 64 << 20
"""Of all answers that are kept; those that were given first go first."""
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


class KeptAnswers:
    """Answers by name, in this process's memory.

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
        self._answers: OrderedDict[str, tuple[KeptAnswer, float]] = OrderedDict()
        self._bytes = 0

    def get(self, name: str) -> KeptAnswer | None:
        """Return an answer, None if it is not kept any more."""
        self._forget_old()
        return self._answers[name][0] if name in self._answers else None

    def put(self, name: str, answer: KeptAnswer) -> None:
        """Keep an answer that was just given, in place of older ones; no other one has its name."""
        self._answers[name] = answer, self._clock() + self._kept_s
        self._bytes += len(answer.body)
        self._forget_old()
        while self._bytes > self._max_bytes or len(self._answers) > self._max_answers:
            self._forget_first()

    def _forget_old(self) -> None:
        now = self._clock()
        while self._answers and next(iter(self._answers.values()))[1] <= now:
            self._forget_first()

    def _forget_first(self) -> None:
        _, (answer, _) = self._answers.popitem(last=False)
        self._bytes -= len(answer.body)
