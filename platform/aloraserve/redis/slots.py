"""Which server of a cluster has which slot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse

from aloraserve.redis.url import Host

SLOTS = 16_384


class SlotMap:
    """Primaries by slot, as a server last told and redirections corrected."""

    def __init__(self) -> None:
        self._owners: list[Host | None] = [None] * SLOTS
        self.hosts: frozenset[Host] = frozenset()

    @property
    def is_known(self) -> bool:
        """Whether any server has told."""
        return bool(self.hosts)

    def owner(self, slot: int) -> Host:
        """Return who has a slot.

        Raises:
            RedisConnectionError: nobody, as far as is known.
        """
        owner = self._owners[slot]
        if owner is None:
            raise RedisConnectionError(f"no server of the cluster has slot {slot}")
        return owner

    def move(self, slot: int, host: Host) -> None:
        """Note a redirection."""
        self._owners[slot] = host

    def replace(self, reply: Sequence[Sequence[Any]], asked: Host) -> None:
        """Take a reply to ``CLUSTER SLOTS``.

        Args:
            reply: ranges of slots, each with its first, its last, and its servers, the primary first.
            asked: who replied; it does not always know its own name.

        Raises:
            InvalidResponse: it names no server.
        """
        owners: list[Host | None] = [None] * SLOTS
        for first, last, (name, port, *_), *_ in reply:
            host = Host(name.decode() if name else asked.name, port)
            owners[first : last + 1] = [host] * (last + 1 - first)
        hosts = frozenset(host for host in owners if host is not None)
        if not hosts:
            raise InvalidResponse("it knows of no slots")
        self._owners, self.hosts = owners, hosts
