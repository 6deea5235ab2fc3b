"""A ledger that the gateways of a fleet share: one hash a bucket of time, every figure a field that is added to."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Self

from aloraserve.redis.keys import fleet_prefix
from aloraserve.redis.script_client import ScriptClient
from aloraserve.redis.scripts import Script, ScriptCall
from aloraserve.savings.base import FIGURES, SavingsEntry, SavingsFigures, buckets
from aloraserve.savings.memory import KEPT_S, Bucket, Tally

MAX_CALLS = 4
MAX_PENDING_BUCKETS = 64
"""Of a flush that never comes; the oldest go first."""
MAX_PIECE_FIELDS = 512
"""Of one script: the server answers nobody else meanwhile."""
MAX_UNWRITTEN = 256
"""Pieces that wait for a server that is away; the oldest are lost first."""
RETRIED_S = 60.0
"""How long a piece is sent again, whose reply did not come; then it is lost."""
WRITER_KEPT_S = 10 * RETRIED_S
"""How long the server remembers what a writer sent last."""
SLICE_FIELDS = 256
"""Fields of a reply that are read before others get their turn on the loop."""
READ_PATIENCE = 5
"""A read of many buckets may take that many times what one call may."""

_ADD = Script.read(__package__, "add")
_READ = Script.read(__package__, "read")


@dataclass(frozen=True, slots=True)
class _Piece:
    """Amounts that one script adds to a bucket.

    Args:
        number: counts this ledger's pieces.
        bucket: they belong to.
        fields: and amounts, in turns.
        taken_at: on the ledger's clock.
    """

    number: int
    bucket: Bucket
    fields: Sequence[str | int]
    taken_at: float


class RedisLedger:
    """See :class:`~aloraserve.savings.base.SavingsLedger`.

    A bucket is the hash ``{aloraserve:<namespace>}:savings:<width in seconds>:<number>`` with a field
    ``<figure>:<adapter>`` for each sum; it expires when no window reaches it any more. Amounts go out in numbered
    pieces, one after the other. ``...:savings:writer:<random>`` is the number of the last piece that this ledger
    added, in the same script: a piece whose reply got lost is sent again and adds nothing if it arrived.

    Args:
        client: closed by :meth:`close`.
        namespace: of the fleet.
        timeout_s: of the client. A flush or a read of many buckets ends after ``READ_PATIENCE`` times as long.
        clock: seconds that never go back.

    Raises:
        ValueError: the namespace is empty or has a brace.
    """

    def __init__(
        self,
        client: ScriptClient,
        *,
        namespace: str,
        timeout_s: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._scripts = client
        self._prefix = f"{fleet_prefix(namespace)}savings:"
        self._patience_s = READ_PATIENCE * timeout_s
        self._clock = clock
        self._pending = Tally()
        self._writer = f"{self._prefix}writer:{secrets.token_hex(8)}"
        self._taken = 0
        self._unwritten: deque[_Piece] = deque()
        self._flushing = asyncio.Lock()

    @classmethod
    def from_url(cls, url: str, *, namespace: str, timeout_s: float = 1.0) -> Self:
        """Return a ledger at ``url``; connects when first used.

        Raises:
            ValueError: the URL or the namespace is not one of those accepted.
        """
        client = ScriptClient.from_url(url, timeout_s=timeout_s, max_calls=MAX_CALLS, part="savings ledger")
        return cls(client, namespace=namespace, timeout_s=timeout_s)

    def add(self, entry: SavingsEntry, at_s: float) -> None:
        pending = self._pending.by_bucket
        self._pending.add(entry, at_s)
        self._pending.forget(at_s)
        while len(pending) > MAX_PENDING_BUCKETS:
            del pending[next(iter(pending))]

    async def flush(self) -> None:
        async with self._flushing, self._bounded():
            self._take()
            while self._unwritten:
                await self._write(self._unwritten[0])
                self._unwritten.popleft()

    async def totals(self, window_s: float, now_s: float) -> dict[str, SavingsFigures]:
        width, numbers = buckets(window_s, now_s)
        await self.flush()
        sums: dict[bytes, int] = {}
        async with self._bounded():
            for number in numbers:
                reply = await self._scripts.run(ScriptCall(_READ, (self._key((width, number)),)))
                await _sum_up(sums, reply)
        return _figures(sums)

    async def close(self) -> None:
        await self._scripts.close()

    def _key(self, bucket: Bucket) -> str:
        return f"{self._prefix}{bucket[0]}:{bucket[1]}"

    @asynccontextmanager
    async def _bounded(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._patience_s):
                yield
        except TimeoutError as error:
            raise self._scripts.unavailable(f"did not answer within {self._patience_s:g} s") from error

    def _take(self) -> None:
        """Number what was added since, and drop what has waited for too long."""
        now = self._clock()
        while self._unwritten and self._unwritten[0].taken_at < now - RETRIED_S:
            self._unwritten.popleft()
        for bucket, by_adapter in self._pending.take().items():
            for fields in _in_pieces(by_adapter):
                self._taken += 1
                self._unwritten.append(_Piece(self._taken, bucket, fields, now))
        while len(self._unwritten) > MAX_UNWRITTEN:
            self._unwritten.popleft()

    async def _write(self, piece: _Piece) -> None:
        width, _ = piece.bucket
        # A gateway whose clock is behind may still read it a bucket later.
        bucket_ttl_ms = (KEPT_S[width] + 2 * width) * 1000
        arguments = (piece.number, round(WRITER_KEPT_S * 1000), bucket_ttl_ms, *piece.fields)
        await self._scripts.run(ScriptCall(_ADD, (self._writer, self._key(piece.bucket)), arguments))


def _in_pieces(by_adapter: dict[str, SavingsFigures]) -> Iterator[Sequence[str | int]]:
    fields: list[str | int] = []
    for adapter, figures in by_adapter.items():
        for name in FIGURES:
            if amount := getattr(figures, name):
                fields += (f"{name}:{adapter}", amount)
        if len(fields) >= 2 * MAX_PIECE_FIELDS:
            yield fields
            fields = []
    if fields:
        yield fields


async def _sum_up(sums: dict[bytes, int], reply: Sequence[bytes]) -> None:
    for start in range(0, len(reply), 2 * SLICE_FIELDS):
        part = reply[start : start + 2 * SLICE_FIELDS]
        for field, amount in zip(part[::2], part[1::2], strict=True):
            sums[field] = sums.get(field, 0) + _whole(amount)
        await asyncio.sleep(0)


def _whole(amount: bytes) -> int:
    try:
        return int(amount)
    except ValueError:
        # Another version's.
        return 0


def _figures(sums: dict[bytes, int]) -> dict[str, SavingsFigures]:
    found: dict[str, SavingsFigures] = {}
    for field, amount in sums.items():
        name, _, adapter = field.decode("utf-8", "replace").partition(":")
        # Another version's figures are left alone.
        if name in FIGURES:
            setattr(found.setdefault(adapter, SavingsFigures()), name, amount)
    return found
