"""Sums on a server that the gateways of a fleet share: one hash per bucket of time, every figure a field of it."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Generic

from aloraserve.ledger.figures import Bucket, Figures
from aloraserve.ledger.tally import AnyFigures, Tally
from aloraserve.redis.keys import fleet_prefix
from aloraserve.redis.script_client import ScriptClient
from aloraserve.redis.scripts import Script, ScriptCall

MAX_CALLS = 4
MAX_PENDING_BUCKETS = 64
"""Of a flush that never comes; the oldest go first."""
MAX_PIECE_FIELDS = 512
"""Of one script: the server answers nobody else meanwhile."""
WORN_BUCKETS = 8
"""Buckets that no window reaches any more and that each piece removes, if they do not expire by themselves."""
MAX_UNWRITTEN = 256
"""Pieces that wait for a server that is away; the oldest are lost first."""
RETRIED_S = 60.0
"""How long a piece is sent again, whose reply did not come; then it is lost."""
WRITER_KEPT_S = 10 * RETRIED_S
"""How long the server remembers what a writer sent last."""
SLICE_FIELDS = 256
"""Fields of a reply that are read before others get their turn on the loop."""
READ_TOGETHER = 16
"""Buckets that are read in one write."""
READ_PATIENCE = 5
"""A read of many buckets may take that many times what one call may."""

_ADD = Script.read(__package__, "add")
_READ = Script.read(__package__, "read")
_READ_SOME = Script.read(__package__, "read_some")


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


class RedisSums(Generic[AnyFigures]):
    """Adds up without I/O, and writes what was added now and then.

    A bucket is the hash ``{aloraserve:<namespace>}:<part>:<width in seconds>:<number>`` with a field
    ``<figure>:<name>`` for each sum; it expires when no window reaches it any more. One that is not to be evicted
    before does not expire, as ``volatile-lru`` takes only what does: a later piece removes it. Amounts go out in
    numbered pieces, one after the other. ``...:<part>:writer:<random>`` is the number of the last piece that this one
    added, in the same script: a piece whose reply got lost is sent again and adds nothing if it arrived. It is
    advisory: what could not be written for a while is lost, so sums may be too small, never too large.

    Args:
        client: closed by :meth:`close`.
        kind: of figures.
        part: what they are, in the keys' names.
        kept_s: width of a bucket -> how long it is of use, both in seconds.
        max_names: that a bucket keeps apart, see :class:`~aloraserve.ledger.tally.Tally`.
        is_evictable: whether a server that is full may forget a bucket.
        namespace: of the fleet.
        timeout_s: of the client. A flush or a read of many buckets ends after ``READ_PATIENCE`` times as long.
        clock: seconds that never go back.

    Raises:
        ValueError: the namespace is empty or has a brace.
    """

    def __init__(
        self,
        client: ScriptClient,
        kind: type[AnyFigures],
        *,
        part: str,
        kept_s: Mapping[int, int],
        max_names: int,
        namespace: str,
        is_evictable: bool = True,
        timeout_s: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._is_evictable = is_evictable
        self._scripts = client
        self._kind = kind
        self._kept_s = kept_s
        self._prefix = f"{fleet_prefix(namespace)}{part}:"
        self._patience_s = READ_PATIENCE * timeout_s
        self._clock = clock
        self._pending = Tally(kind, kept_s, max_names)
        self._writer = f"{self._prefix}writer:{secrets.token_hex(8)}"
        self._taken = 0
        self._unwritten: deque[_Piece] = deque()
        self._flushing = asyncio.Lock()

    def count(self, name: str, figures: AnyFigures, at_s: float) -> None:
        """Add figures of a name.

        Args:
            name: whose they are.
            figures: to be added.
            at_s: when they came about, seconds since 1970.
        """
        pending = self._pending.by_bucket
        self._pending.add(name, figures, at_s)
        self._pending.forget(at_s)
        while len(pending) > MAX_PENDING_BUCKETS:
            del pending[next(iter(pending))]

    async def flush(self) -> None:
        """Write what was added to where others read it.

        Raises:
            DirectoryUnavailableError: the server cannot be reached; what was to be written is tried again with the next
                flush, and lost after a while.
        """
        async with self._flushing, self._bounded():
            self._take()
            while self._unwritten:
                await self._write(self._unwritten[0])
                self._unwritten.popleft()

    async def sums(self, buckets: Iterable[Bucket]) -> dict[str, AnyFigures]:
        """Return the sums over buckets by name; what was added here counts, flushed or not.

        Raises:
            DirectoryUnavailableError: the server cannot be reached.
        """
        sums: dict[bytes, int] = {}
        async with contextlib.aclosing(self._read(buckets)) as found:
            async for _, reply in found:
                await _sum_up(sums, reply)
        return self._figures(sums)

    async def by_bucket(
        self, buckets: Iterable[Bucket], name: str | None = None
    ) -> dict[Bucket, dict[str, AnyFigures]]:
        """Return the figures of each bucket by name, as :meth:`sums` does.

        Args:
            buckets: to be read.
            name: the only one that is of interest; None for all.
        """
        figures = {}
        async with contextlib.aclosing(self._read(buckets, name)) as found:
            async for bucket, reply in found:
                sums: dict[bytes, int] = {}
                await _sum_up(sums, reply)
                figures[bucket] = self._figures(sums)
        return figures

    async def close(self) -> None:
        """Let go of connections."""
        await self._scripts.close()

    async def _read(
        self, buckets: Iterable[Bucket], name: str | None = None
    ) -> AsyncGenerator[tuple[Bucket, Sequence[bytes]]]:
        """Yield each bucket with its fields and amounts, in turns; the server answers others in between."""
        await self.flush()
        fields = () if name is None else tuple(f"{figure}:{name}" for figure in self._kind.names())
        deadline = asyncio.get_running_loop().time() + self._patience_s
        wanted = list(buckets)
        for start in range(0, len(wanted), READ_TOGETHER):
            some = wanted[start : start + READ_TOGETHER]
            calls = [ScriptCall(_READ_SOME if fields else _READ, (self._key(bucket),), fields) for bucket in some]
            async with self._bounded(deadline):
                replies = await self._scripts.run_all(calls)
            for bucket, reply in zip(some, replies, strict=True):
                yield bucket, reply

    def _key(self, bucket: Bucket) -> str:
        return f"{self._prefix}{bucket[0]}:{bucket[1]}"

    def _figures(self, sums: dict[bytes, int]) -> dict[str, AnyFigures]:
        found: dict[str, AnyFigures] = {}
        for field, amount in sums.items():
            figure, _, name = field.decode("utf-8", "replace").partition(":")
            # Another version's figures are left alone.
            if figure in self._kind.names():
                setattr(found.setdefault(name, self._kind()), figure, amount)
        return found

    @asynccontextmanager
    async def _bounded(self, deadline: float | None = None) -> AsyncIterator[None]:
        """Raise if what is done takes too long, or until after a deadline on the loop's clock."""
        until = asyncio.get_running_loop().time() + self._patience_s if deadline is None else deadline
        try:
            async with asyncio.timeout_at(until):
                yield
        except TimeoutError as error:
            raise self._scripts.unavailable(f"did not answer within {self._patience_s:g} s") from error

    def _take(self) -> None:
        """Number what was added since, and drop what has waited for too long."""
        now = self._clock()
        while self._unwritten and self._unwritten[0].taken_at < now - RETRIED_S:
            self._unwritten.popleft()
        for bucket, by_name in self._pending.take().items():
            for fields in _in_pieces(by_name):
                self._taken += 1
                self._unwritten.append(_Piece(self._taken, bucket, fields, now))
        while len(self._unwritten) > MAX_UNWRITTEN:
            self._unwritten.popleft()

    async def _write(self, piece: _Piece) -> None:
        width, number = piece.bucket
        # A gateway whose clock is behind may still read it a bucket later.
        kept_s = self._kept_s[width] + 2 * width
        bucket_ttl_ms = kept_s * 1000 if self._is_evictable else 0
        newest = number - -(-kept_s // width)
        worn = () if self._is_evictable else range(newest, newest - WORN_BUCKETS, -1)
        keys = (self._writer, self._key(piece.bucket), *(self._key((width, old)) for old in worn))
        arguments = (piece.number, round(WRITER_KEPT_S * 1000), bucket_ttl_ms, *piece.fields)
        await self._scripts.run(ScriptCall(_ADD, keys, arguments))


def _in_pieces(by_name: Mapping[str, Figures]) -> Iterator[Sequence[str | int]]:
    fields: list[str | int] = []
    for name, figures in by_name.items():
        for figure in figures.names():
            if amount := getattr(figures, figure):
                fields += (f"{figure}:{name}", amount)
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
