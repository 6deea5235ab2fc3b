"""Bodies of requests: read within bounds of size, of time, and of memory for all of them together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import TypeVar

from starlette.requests import Request

from aloraserve.errors import BodyTimeoutError, BodyTooLargeError, MediaTypeError, OverloadedError
from aloraserve.tenants import UNTENANTED, Caller
from aloraserve.wire import parse_body
from aloraserve.wire.fields import CallFields, RequestPart
from aloraserve_services.gateway.body_budget import BodyBudget, HeldBytes
from aloraserve_services.gateway.request_context import note_ignored

MIN_BODY_BYTES = 256 << 10
BODY_BYTES_PER_TOKEN = 64
"""How long a body may be: several times what the longest prompt takes as text or as token ids. What is longer would be
read, parsed and tokenized only to be refused, while other calls wait."""
MIN_BYTES_PER_S = 16 << 10
"""A body that comes at least that fast is waited for."""
SHORT_BODY_BYTES = 32 << 10
"""A body up to this length is parsed at once; a longer one in a thread, while other calls go on."""

_CHARSETS = ("", "utf-8", "utf8", "us-ascii")
_CODINGS = ("", "identity")

Body = TypeVar("Body", bound=RequestPart)


class BodyReader:
    """Reads requests' bodies.

    Attributes:
        budget: of memory for them.

    Args:
        max_model_len: tokens of a prompt and its answer together, which say how long a body may be.
        timeout_s: for a body to arrive; a long one has more time.
    """

    def __init__(self, max_model_len: int, timeout_s: float) -> None:
        self._max_model_len = max_model_len
        self._timeout_s = timeout_s
        self._max_bytes = max(MIN_BODY_BYTES, BODY_BYTES_PER_TOKEN * max_model_len)
        self.budget = BodyBudget(self._max_bytes)
        self._reads_file = False

    @property
    def max_bytes(self) -> int:
        """The longest body that is accepted."""
        return self._max_bytes

    async def read(self, kind: type[Body], request: Request, caller: Caller = UNTENANTED) -> Body:
        """Return a request's body; the response names the fields of it that were passed over.

        Args:
            kind: of body.
            request: whose it is.
            caller: who sent it.

        Raises:
            MediaTypeError: it is not declared to be JSON, which a web page of another site cannot do, or to be
                compressed or in another charset than UTF-8.
            BodyTooLargeError: it is longer than is accepted; the rest is not read.
            BodyTimeoutError: it does not arrive in time.
            OverloadedError: too many bodies are being read.
            InvalidRequestError: see :func:`~aloraserve.wire.parse_body`.
        """
        _check_declared(request.headers)
        self._check_size(int(request.headers.get("content-length", 0)))
        parts: list[bytes] = []
        with self.budget.holding(caller) as held:
            await self._receive(request, lambda part, size: self._hold(part, size, parts, held))
            raw = b"".join(parts)
            body = await self._parsed(kind, raw)
        if isinstance(body, CallFields):
            note_ignored(request, body.ignored)
        return body

    async def _parsed(self, kind: type[Body], raw: bytes) -> Body:
        if len(raw) <= SHORT_BODY_BYTES:
            return parse_body(kind, raw, self._max_bytes)
        return await asyncio.to_thread(parse_body, kind, raw, self._max_bytes)

    async def read_file(self, request: Request, max_bytes: int) -> bytes:
        """Return a body as it is, which may be much longer than a call's; one at a time.

        Raises:
            OverloadedError: another one is being read.
            MediaTypeError, BodyTooLargeError, BodyTimeoutError: as for :meth:`read`.
        """
        _check_declared(request.headers)
        if self._reads_file:
            raise OverloadedError("another file is being read; retry later")
        content = bytearray()

        def take(part: bytes, size: int) -> None:
            if size > max_bytes:
                raise BodyTooLargeError(f"the body has more than {max_bytes} bytes, the most that is accepted")
            content.extend(part)

        self._reads_file = True
        try:
            await self._receive(request, take)
        finally:
            self._reads_file = False
        return bytes(content)

    async def _receive(self, request: Request, take: Callable[[bytes, int], None]) -> None:
        """Hand over each part of a body, and the size of it and those before."""
        loop, size = asyncio.get_running_loop(), 0
        begun = loop.time()
        try:
            async with asyncio.timeout(self._timeout_s) as deadline:
                async for part in request.stream():
                    size += len(part)
                    take(part, size)
                    deadline.reschedule(begun + self._timeout_s + size / MIN_BYTES_PER_S)
        except TimeoutError:
            raise BodyTimeoutError(
                f"the body did not arrive in time: {size} bytes came; {self._timeout_s:g} s and another second for "
                f"each {MIN_BYTES_PER_S} bytes are waited for"
            ) from None

    def _check_size(self, size: int) -> None:
        if size > self._max_bytes:
            raise BodyTooLargeError(
                f"the body has more than {self._max_bytes} bytes, the most that is accepted for a context of "
                f"{self._max_model_len} tokens"
            )

    def _hold(self, part: bytes, size: int, parts: list[bytes], held: HeldBytes) -> None:
        self._check_size(size)
        held.add(len(part))
        parts.append(part)


def _check_declared(headers: Mapping[str, str]) -> None:
    declared = headers.get("content-type")
    media_type, *parameters = (declared or "").lower().split(";")
    if media_type.strip() != "application/json":
        shown = "missing" if declared is None else f"{declared[:80]!r}"
        raise MediaTypeError(f"the header 'Content-Type' is {shown}; 'application/json' is needed")
    charset = next(
        (value for name, _, value in (part.partition("=") for part in parameters) if name.strip() == "charset"), ""
    )
    if charset.strip(' "') not in _CHARSETS:
        raise MediaTypeError(f"the charset of 'Content-Type' is {charset[:40]!r}; JSON is read as UTF-8")
    coding = headers.get("content-encoding", "")
    if coding.strip().lower() not in _CODINGS:
        raise MediaTypeError(
            f"the header 'Content-Encoding' is {coding[:80]!r}; a body is read as it is, not compressed"
        )
