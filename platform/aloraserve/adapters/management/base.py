"""What a registration asks for, and what the manager needs of the parts around it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from aloraserve.adapters.catalog.entry import AdapterEntry, Visibility
from aloraserve.adapters.checks import CheckReport

Progress = Callable[[int, int], None]
"""Called with the bytes that are here and the bytes in all. From any thread."""


@dataclass(frozen=True, slots=True)
class RegistrationRequest:
    """An adapter to be registered.

    Args:
        name: what ``model`` is to call it.
        source: reference of its files, such as ``file:///adapters/safety`` or ``hf://org/repository``.
        owner: tenant that it belongs to, None for the platform's own.
        visibility: "private": only its owner sees and calls it.
        labels: for lists.
        promote: whether the plain name stands for this version from now on; a first version's always does.
        alias: that is to point to it too, empty for none.
        weights_sha256: hex digest that its weights must have, empty if any is accepted.
        reason: why, for its history.
        quota: versions that the owner may have with this one; None: any number.
    """

    name: str
    source: str
    owner: str | None = None
    visibility: Visibility = "public"
    labels: Mapping[str, str] = field(default_factory=dict)
    promote: bool = True
    alias: str = ""
    weights_sha256: str = ""
    reason: str = ""
    quota: int | None = None


class AdapterIntake(Protocol):
    """Brings adapters into the store. Its calls block: each is made in a thread."""

    def shown(self, reference: str) -> str:
        """Return a source's reference without secrets.

        Raises:
            InvalidRequestError: it is not one, or not one that is allowed here.
        """
        ...

    def fetch(self, reference: str, *, progress: Progress, weights_sha256: str = "") -> Path:
        """Return a folder with the files of a source, to be discarded.

        Args:
            reference: of the source.
            progress: called as bytes come; what it raises ends the fetch.
            weights_sha256: hex digest that the weights have to have; empty: any.

        Raises:
            AloraserveError: they cannot be had; nothing is left.
        """
        ...

    def check(self, name: str, folder: Path) -> CheckReport:
        """Return what is in a folder and all that is wrong with it, for the engines of this fleet."""
        ...

    def keep(self, digest: str, folder: Path) -> None:
        """Have the files of a version in the store until :meth:`release`.

        Raises:
            InvalidAdapterError: they cannot be kept, or are not those of this digest any more.
        """
        ...

    def refer(self, digest: str) -> None:
        """Have files stay that the store has already, until :meth:`release`."""
        ...

    def release(self, digest: str) -> None:
        """Have files collected, once no process uses them."""
        ...

    def has(self, digest: str) -> bool:
        """Whether the store has the files of a version."""
        ...

    def discard(self, folder: Path) -> None:
        """Remove a folder that was fetched."""
        ...


@dataclass(frozen=True, slots=True)
class Usage:
    """Where a version is and works now.

    Args:
        loaded: labels of the replicas that have it loaded.
        calling: labels of those that run calls of it.
        slotted: labels of those that have it in a slot, where it can run in the next step.
    """

    loaded: tuple[str, ...] = ()
    calling: tuple[str, ...] = ()
    slotted: tuple[str, ...] = ()


class AdapterUsage(Protocol):
    """Knows where versions are loaded and called."""

    async def of(self, entry: AdapterEntry) -> Usage:
        """Return where a version is and works now.

        Raises:
            DirectoryUnavailableError: it cannot be known.
        """
        ...
