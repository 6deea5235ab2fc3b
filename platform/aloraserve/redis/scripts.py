"""Lua scripts and the contract of their runners: :mod:`.channel` (one server) and :mod:`.cluster`.

A script lies in the ``lua`` folder of the package that uses it. Its first line is Redis' own (``#!lua flags=...``); a
second line ``-- include: head, runs`` stands for those parts, which lie in ``lua/parts`` beside the script or, for all
packages, in ``lua`` here.

A script touches only keys that its call declares. Their names are computed here in Python and carry one hash tag, so
they lie in one slot of a cluster, and a server that is moving the slot sees which of them it still has.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any, NamedTuple, Protocol, Self

_INCLUDE = re.compile(r"^-- include: (.+)\n", re.MULTILINE)


class Script:
    """Lua and the digest that servers know it by.

    Args:
        source: the whole script.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        self.digest = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()

    @classmethod
    def read(cls, package: str, name: str) -> Self:
        """Return the script ``lua/<name>.lua`` of ``package`` with its parts in place.

        Raises:
            FileNotFoundError: the script or a part that it names is not there.
        """
        folder = files(package).joinpath("lua")
        text = folder.joinpath(f"{name}.lua").read_text("utf-8")
        return cls(_INCLUDE.sub(lambda match: _parts(folder, match[1].split(", ")), text))


def _parts(folder: Traversable, names: Sequence[str]) -> str:
    shared = files(__package__).joinpath("lua")
    own = folder.joinpath("parts")
    found = (own.joinpath(f"{name}.lua") for name in names)
    return "".join(
        (part if part.is_file() else shared.joinpath(part.name)).read_text("utf-8").rstrip("\n") + "\n"
        for part in found
    )


class ScriptCall(NamedTuple):
    """One call of a script.

    Args:
        script: what to run.
        keys: the names of all keys that it may touch, ``KEYS`` in the script: at least one, all with one hash tag.
        arguments: its other arguments, ``ARGV`` in the script.
    """

    script: Script
    keys: Sequence[str | bytes]
    arguments: Sequence[str | bytes | int] = ()

    def by_digest(self) -> tuple[str | bytes | int, ...]:
        """Return the command for a server that knows the script."""
        return ("EVALSHA", self.script.digest, len(self.keys), *self.keys, *self.arguments)

    def by_source(self) -> tuple[str | bytes | int, ...]:
        """Return the command for one that does not."""
        return ("EVAL", self.script.source, len(self.keys), *self.keys, *self.arguments)


class ScriptRunner(Protocol):
    """Runs scripts, any number at once."""

    async def run(self, calls: Sequence[ScriptCall]) -> list[Any]:
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
