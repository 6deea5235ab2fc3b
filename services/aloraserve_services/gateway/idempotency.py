"""Requests that are sent again under one key: they cost one answer, and get that one.

As in the IETF's draft of the header (draft-ietf-httpapi-idempotency-key-header): a key stands for one body, a second
request waits for the first or gets its answer, and another body under the same key is refused. Answers stay in the
gateway that gave them, in its memory: they are as confidential as prompts. Gateways ask each other for them through
Serve, as they do for receipts.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec
from starlette.responses import Response

from aloraserve.errors import IdempotencyConflictError, IdempotencyKeyReusedError, InvalidRequestError
from aloraserve.tenants import Caller
from aloraserve.wire.fields import RequestPart
from aloraserve_services.gateway.kept_answers import KeptAnswer, KeptAnswers
from aloraserve_services.gateway.receipts import AskAll

KEY_HEADER = "idempotency-key"
MAX_WAITING = 64
"""Of a tenant's requests, those that wait for the answer to an earlier one; more are refused."""
_KEY = re.compile(r"[\x21-\x7e]{1,255}")

Answering = Callable[[], Awaitable[Response]]


@dataclass(slots=True, eq=False)
class _Running:
    """A request that is being answered.

    Args:
        request: digest of its body.
        is_asking: whether another gateway may turn out to have it.
        ended: set once it has ended, with an answer or without.
    """

    request: str
    is_asking: bool
    ended: asyncio.Event = field(default_factory=asyncio.Event)


class IdempotentAnswers:
    """See the module's docstring. For one event loop.

    Only whole answers that succeeded are kept; after an error, or when its client has gone, a key is free again.

    Args:
        ask_all: reaches all gateways, None if there is no other.
        kept: answers that were given.
    """

    def __init__(self, ask_all: AskAll | None = None, kept: KeptAnswers | None = None) -> None:
        self._ask_all = ask_all
        self._kept = kept or KeptAnswers()
        self._gateway = uuid.uuid4().hex
        self._running: dict[str, _Running] = {}
        self._waiting: Counter[str] = Counter()

    async def once(self, key: str | None, place: str, caller: Caller, body: RequestPart, answer: Answering) -> Response:
        """Return the answer to a request: once more, if it has had one under its key.

        Args:
            key: of the request, None if it has none.
            place: the path or method that was asked; a key stands for one request of each.
            caller: whose key it is; tenants have keys of their own.
            body: of the request, validated.
            answer: gives the answer, in whichever form its edge reads again.

        Raises:
            InvalidRequestError: the key is not one that is accepted.
            IdempotencyKeyReusedError: the key stands for another body.
            IdempotencyConflictError: another gateway is answering the request, or too many wait for answers already.
        """
        if key is None:
            return await answer()
        _check(key)
        name = _digest([caller.tenant, place, key])
        return await self._once(name, caller.tenant or "", _digest(body), answer)

    def own(self, name: str) -> dict[str, Any] | None:
        """Return what this gateway knows of a key, as plain values; other gateways ask for it."""
        known = {"gateway": self._gateway}
        if (kept := self._kept.get(name)) is not None:
            return known | {"request": kept.request, "body": kept.body, "headers": dict(kept.headers)}
        if (running := self._running.get(name)) is not None:
            return known | {"request": running.request, "body": None, "is_asking": running.is_asking}
        return None

    async def _once(self, name: str, tenant: str, request: str, answer: Answering) -> Response:
        while (running := self._running.get(name)) is not None:
            _check_same(running.request, request)
            # Whoever is the first of those that wait goes on where it failed.
            with self._waits(tenant):
                await running.ended.wait()
        if (kept := self._kept.get(name)) is not None:
            _check_same(kept.request, request)
            return kept.response()
        async with self._run(name, request) as running:
            if self._ask_all is not None and (given := await self._elsewhere(name, running, self._ask_all)):
                return given.response()
            response = await answer()
            if response.status_code == 200:
                self._kept.put(name, tenant, KeptAnswer.of(request, response))
            return response

    @contextlib.contextmanager
    def _waits(self, tenant: str) -> Iterator[None]:
        if self._waiting[tenant] >= MAX_WAITING:
            raise _conflict()
        self._waiting[tenant] += 1
        try:
            yield
        finally:
            self._waiting[tenant] -= 1
            if not self._waiting[tenant]:
                del self._waiting[tenant]

    @contextlib.asynccontextmanager
    async def _run(self, name: str, request: str) -> AsyncIterator[_Running]:
        running = self._running[name] = _Running(request, is_asking=self._ask_all is not None)
        try:
            yield running
        finally:
            del self._running[name]
            running.ended.set()

    async def _elsewhere(self, name: str, running: _Running, ask_all: AskAll) -> KeptAnswer | None:
        """Return the answer that another gateway has given.

        Of two that ask at once one goes on: each has noted the request before it asked, so at least one knows of both.
        """
        others = [known for known in await ask_all("own_answer", name) if known and known["gateway"] != self._gateway]
        for known in others:
            _check_same(known["request"], running.request)
            if known["body"] is not None:
                return KeptAnswer(running.request, known["body"], known["headers"])
        if any(not known["is_asking"] or known["gateway"] < self._gateway for known in others):
            raise _conflict()
        running.is_asking = False
        return None


def refuse_key(key: str | None) -> None:
    """Refuse a key of a request whose answer is to be streamed.

    Raises:
        InvalidRequestError: there is one.
    """
    if key is not None:
        raise InvalidRequestError(
            "a streamed answer cannot be given again: leave the 'Idempotency-Key' out, or do not stream", param="stream"
        )


def _conflict() -> IdempotencyConflictError:
    return IdempotencyConflictError("a request with this 'Idempotency-Key' is being answered; retry later")


def _check(key: str) -> None:
    if not _KEY.fullmatch(key):
        raise InvalidRequestError(
            f"the 'Idempotency-Key' is {key[:40]!r}; 1 to 255 printable ASCII characters without spaces are accepted"
        )


def _check_same(known: str, request: str) -> None:
    if known != request:
        raise IdempotencyKeyReusedError("this 'Idempotency-Key' stands for another request; use a new one")


def _digest(value: object) -> str:
    return hashlib.sha256(msgspec.json.encode(value)).hexdigest()
