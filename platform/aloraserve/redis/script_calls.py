"""What is sent to a server, and how: the contract of :mod:`redis_channel` (one server) and :mod:`redis_cluster`."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol


class Script:
    """Lua and the digest that servers know it by."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.digest = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()


class Run(NamedTuple):
    """One run of a script.

    Args:
        script: what to run.
        prefix: its only key.
        arguments: its others.
    """

    script: Script
    prefix: str
    arguments: Sequence[str | bytes | int]


class Calls(Protocol):
    """Runs scripts, any number at once."""

    async def run(self, runs: Sequence[Run]) -> list[Any]:
        """Return the scripts' replies. A server that does not know a script gets it.

        Raises:
            TimeoutError: the replies were not there in time, waiting for a connection included.
            RedisError: a server answered with an error, or cannot be reached.
            OSError: the same.
        """
        ...

    async def close(self) -> None:
        """End what is under way."""
        ...
