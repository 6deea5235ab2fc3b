"""Names of the directory's keys in the fleet's slot, by the script that touches them, in its order."""

from __future__ import annotations

from dataclasses import dataclass

from aloraserve.blocks import BlockKey


@dataclass(frozen=True, slots=True)
class FleetKeys:
    """See :mod:`aloraserve.directory.redis_scripts` for what the keys are.

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

    @property
    def changes(self) -> list[str]:
        """Keys of ``changes``."""
        return self._named("version", "versions", "replicas", "claimed", "totals", "claims")

    @property
    def kept(self) -> list[str]:
        """Keys of ``kept``."""
        return self._named("replicas", "versions", "known", "totals", "claimed", "turn")

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
