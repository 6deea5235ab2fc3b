"""The handshake: a process and its fleet have one key space, and a difference is reported."""

from __future__ import annotations

from dataclasses import fields

from aloraserve.blocks import KeySpace
from aloraserve.errors import KeySpaceMismatchError


def check_same(fleet: KeySpace, mine: KeySpace) -> None:
    """Raise KeySpaceMismatchError, naming each part that differs, unless the key spaces are equal."""
    different = [
        f"{item.name} is {getattr(mine, item.name)!r} and the fleet's is {getattr(fleet, item.name)!r}"
        for item in fields(KeySpace)
        if getattr(mine, item.name) != getattr(fleet, item.name)
    ]
    if different:
        raise KeySpaceMismatchError(
            f"this process cannot join its fleet: {'; '.join(different)}. Start it with what the fleet has, or under "
            "another namespace"
        )
