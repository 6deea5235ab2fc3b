"""Adapter versions, and the contracts of whoever knows which of them are served."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

AdapterKind = Literal["lora", "alora"]


@dataclass(frozen=True, slots=True)
class AdapterVersion:
    """A validated PEFT adapter: a name and the content that it has now.

    Args:
        name: what ``model`` calls it.
        kind: "alora" if it has an invocation, else "lora".
        path: its folder.
        rank: LoRA rank.
        target_modules: names of the linears it changes, sorted.
        invocation_ids: an aLoRA's invocation tokens; empty for a plain LoRA.
        invocation_text: those tokens as text, None for a plain LoRA or without a tokenizer.
        digest: hex SHA-256 of its config and weights: equal digests mean equal adapters.
        untrained: whether its weights are random, for trying the platform out.
    """

    name: str
    kind: AdapterKind
    path: Path
    rank: int
    target_modules: tuple[str, ...]
    invocation_ids: tuple[int, ...]
    invocation_text: str | None
    digest: str
    untrained: bool = False

    @property
    def engine_id(self) -> int:
        """The positive 31-bit number that engines know this version by: of its name and content, not of a position."""
        content = f"{self.name}\0{self.digest}".encode()
        return 1 + int.from_bytes(hashlib.blake2b(content, digest_size=4).digest()) % (2**31 - 1)


@dataclass(frozen=True, slots=True)
class RefusedAdapter:
    """An adapter that is not served, and why."""

    name: str
    reason: str


class AdapterCatalog(Protocol):
    """Which adapters a fleet serves.

    A catalog is read when the platform starts and does not change: every call answers the same until it is
    built anew, from any thread, and none of them does I/O. One bad adapter never hides a good one: it is in
    :meth:`refused` with the reason, and no name is in both.
    """

    def get(self, name: str) -> AdapterVersion | None:
        """Return the adapter called ``name``, or None if none is served under it."""

    def all(self) -> Sequence[AdapterVersion]:
        """Return every served adapter, sorted by name."""

    def refused(self) -> Sequence[RefusedAdapter]:
        """Return every adapter that is not served, sorted by name."""


@dataclass(frozen=True, slots=True)
class RegistryChange:
    """What changed in a registry from one reading to the next.

    Args:
        added: versions that are served now and were not: new adapters, and new contents of known ones.
        removed: versions that were served and are not any more: removed adapters, and replaced contents.
        refused: every adapter that is not served now, with the reason.
    """

    added: tuple[AdapterVersion, ...] = ()
    removed: tuple[AdapterVersion, ...] = ()
    refused: tuple[RefusedAdapter, ...] = ()


class AdapterRegistry(Protocol):
    """Which adapters a fleet serves now.

    A registry is live: adapters come, change and go while it is used. A version does not change: whoever resolved one
    may go on with it until its request ends, also after the registry has another. :meth:`resolve`, :meth:`all` and
    :meth:`refused` do no I/O and may be called for each request. One bad adapter never hides a good one; no name is
    both served and refused, and an adapter that turns bad is refused, not served as it was.
    """

    def resolve(self, name: str) -> AdapterVersion:
        """Return the version that is served as ``name`` now.

        Raises:
            UnknownModelError: no adapter is served under that name; names those that are.
        """
        ...

    def all(self) -> Sequence[AdapterVersion]:
        """Return every served version, sorted by name."""
        ...

    def refused(self) -> Sequence[RefusedAdapter]:
        """Return every adapter that is not served, sorted by name."""
        ...

    def watch(self) -> AsyncIterator[RegistryChange]:
        """Yield the changes from now on, as they are noticed; the first is what is served already."""
        ...
