"""Aliases: names of an adapter that point to its versions, and can be pointed elsewhere in one step."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence

from aloraserve.adapters.catalog.entry import CatalogPart

CURRENT = "current"
"""The alias that an adapter's plain name stands for."""
MAX_SHARES = 8
_EXACT = 1e-9


class Share(CatalogPart, frozen=True, kw_only=True):
    """A part of an alias's conversations.

    Args:
        version: that they go to.
        share: above 0 and at most 1.
    """

    version: str
    share: float = 1.0


class Alias(CatalogPart, frozen=True, kw_only=True):
    """What an alias points to now, and what it pointed to before.

    Args:
        shares: of all conversations; they add up to 1, the first is the main one.
        at: when it was pointed there, in seconds since 1970.
        reason: why.
        previous: where a rollback goes; empty if it never pointed elsewhere.
    """

    shares: tuple[Share, ...]
    at: float
    reason: str = ""
    previous: tuple[Share, ...] = ()

    @property
    def versions(self) -> tuple[str, ...]:
        """Versions that it points to."""
        return tuple(share.version for share in self.shares)


def is_whole(shares: Sequence[Share]) -> bool:
    """Whether shares are those of an alias: distinct versions, all above 0, 1 together."""
    return (
        1 <= len(shares) <= MAX_SHARES
        and len({share.version for share in shares}) == len(shares)
        and all(0 < share.share <= 1 for share in shares)
        and abs(sum(share.share for share in shares) - 1) < _EXACT * len(shares)
    )


def choose(shares: Sequence[Share], place: str, key: str) -> str:
    """Return the version that a conversation goes to.

    A canary's share may grow: conversations that are with it stay there, and so do those of the main version that the
    growth does not take.

    Args:
        shares: at least one; need not add up to 1.
        place: the alias's full name, so that two aliases divide conversations differently.
        key: what stands for the conversation; empty: by chance.
    """
    if len(shares) == 1:
        return shares[0].version
    point = _point(place, key) * sum(share.share for share in shares)
    # The main version is last: what the others gain, it loses.
    for share in shares[1:]:
        point -= share.share
        if point < 0:
            return share.version
    return shares[0].version


def _point(place: str, key: str) -> float:
    if not key:
        return random.random()  # noqa: S311
    content = f"{place}\0{key}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(content, digest_size=7).digest()) / 2**56
