"""Names of the directory's keys, by the script that touches them, in its order."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from aloraserve.blocks import BlockKey


@dataclass(frozen=True, slots=True)
class FleetKeys:
    """Keys in the fleet's slot. See :mod:`aloraserve.directory.redis_scripts` for what the keys are.

    Args:
        fleet: what every key of the fleet begins with.
        prefix: the same with the schema's version.
    """

    fleet: str
    prefix: str

    @property
    def space(self) -> str:
        """The key space: where every version of the schema looks."""
        return f"{self.fleet}space"

    def join(self, application: str) -> list[str]:
        """Keys of ``join``: the application's own key space, and that of the first one in the namespace."""
        return [f"{self.space}:{application}" if application else self.space, self.space]

    @property
    def changes(self) -> list[str]:
        """Keys of ``changes``."""
        return self._named("version", "versions", "replicas", "claimed", "totals", "claims", "leaving")

    @property
    def kept(self) -> list[str]:
        """Keys of ``kept``."""
        return self._named("replicas", "versions", "known", "totals", "claimed", "turn")

    @property
    def leaving(self) -> list[str]:
        """Keys of ``leave``."""
        return self._named("leaving")

    def leases(self, replica: str) -> list[str]:
        """Keys of ``publish`` and ``retire``."""
        return [*self._named("replicas", "version", "versions", "known", "totals", "claimed"), self._open(replica)]

    def claim(self, replica: str, first: BlockKey | None) -> list[str | bytes]:
        """Keys of ``claim``; ``first`` is the block that it is to be the first for."""
        names = self._named("replicas", "version", "totals", "claimed", "claims")
        return [*names, self._open(replica), *self._first(first)]

    def withdrawal(self, replica: str, first: BlockKey | None) -> list[str | bytes]:
        """Keys of ``withdraw``."""
        return [*self._named("version", "totals", "claimed", "claims"), self._open(replica), *self._first(first)]

    def _named(self, *names: str) -> list[str]:
        return [f"{self.prefix}{name}" for name in names]

    def _open(self, replica: str) -> str:
        return f"{self.prefix}t:{replica}"

    def _first(self, key: BlockKey | None) -> list[bytes]:
        return [] if key is None else [f"{self.prefix}c:".encode() + key]


@dataclass(frozen=True, slots=True)
class ShardKeys:
    """Keys in the slot of a shard of chains. See :mod:`aloraserve.directory.redis_scripts` for what they are.

    Args:
        prefix: what every key of the shard begins with.
    """

    prefix: str

    @property
    def epoch(self) -> str:
        """Key of ``epoch``."""
        return f"{self.prefix}epoch"

    @property
    def gone(self) -> list[str]:
        """Keys of ``gone``."""
        return [f"{self.prefix}owners", f"{self.prefix}lost"]

    @property
    def lost(self) -> str:
        """Key of ``report``."""
        return f"{self.prefix}lost"

    def nodes(self, anchors: Iterable[BlockKey]) -> list[bytes]:
        """Return the nodes of runs."""
        start = f"{self.prefix}b:".encode()
        return [start + anchor for anchor in anchors]

    def index(self, holder: bytes) -> bytes:
        """Return where a holder's entries are listed."""
        return f"{self.prefix}o:".encode() + holder

    def changes(self, holders: Sequence[bytes], anchors: Iterable[BlockKey]) -> list[str | bytes]:
        """Keys of ``apply``: of the holder, and of earlier ones that it strikes off."""
        return [f"{self.prefix}owners", *map(self.index, holders), *self.nodes(anchors)]

    def cleaning(self, holder: bytes, anchors: Iterable[BlockKey]) -> list[str | bytes]:
        """Keys of ``clean``."""
        return [f"{self.prefix}owners", self.index(holder), *self.nodes(anchors)]

    def sweep(self, anchor: BlockKey) -> list[str | bytes]:
        """Keys of ``sweep``."""
        return [f"{self.prefix}owners", f"{self.prefix}lost", *self.nodes([anchor])]
