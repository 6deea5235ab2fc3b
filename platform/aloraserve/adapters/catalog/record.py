"""All that the catalog knows of one adapter's name: the unit that changes in one step. Nothing here does I/O."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Self

import msgspec

from aloraserve.adapters.catalog.alias import CURRENT, Alias, Share, choose, is_whole
from aloraserve.adapters.catalog.entry import (
    MAX_REASON_CHARACTERS,
    AdapterEntry,
    AdapterState,
    CatalogPart,
    reason_problem,
)
from aloraserve.adapters.catalog.reference import Reference, check_alias
from aloraserve.errors import AdapterConflictError, InvalidRequestError, RetiredAdapterError, UnknownAdapterError

MAX_VERSIONS = 64
"""Of a name, deleted ones aside."""
MAX_ALIASES = 32
MAX_DELETED = 8
"""Deleted versions of a name that are remembered."""


class AdapterRecord(CatalogPart, frozen=True, kw_only=True):
    """A name's versions and aliases. Every method that changes something returns another record.

    Args:
        name: of the adapter.
        versions: in the order in which they were registered.
        aliases: by name; :data:`~aloraserve.adapters.catalog.alias.CURRENT` is among them once a version took calls.
    """

    name: str
    versions: tuple[AdapterEntry, ...] = ()
    aliases: dict[str, Alias] = msgspec.field(default_factory=dict)

    @property
    def live(self) -> tuple[AdapterEntry, ...]:
        """Versions that are not deleted."""
        return tuple(entry for entry in self.versions if entry.state is not AdapterState.DELETED)

    @property
    def is_deleted(self) -> bool:
        """Whether nothing but the memory of deleted versions is left."""
        return not self.live

    @property
    def owner(self) -> str | None:
        """The tenant that the name belongs to; every live version has the same."""
        return next((entry.owner for entry in self.live), None)

    @property
    def served(self) -> tuple[AdapterEntry, ...]:
        """Versions that take calls and that an alias points to."""
        pointed = {version for alias in self.aliases.values() for version in alias.versions}
        return tuple(entry for entry in self.versions if entry.state.is_callable and entry.version in pointed)

    def visible_to(self, tenant: str | None) -> Self:
        """Return the record without the versions that a tenant may not see."""
        return self._only(tuple(entry for entry in self.versions if entry.is_visible_to(tenant)))

    def owned_by(self, tenant: str | None) -> Self:
        """Return the record without the versions that belong to others."""
        return self._only(tuple(entry for entry in self.versions if entry.owner == tenant))

    @property
    def public(self) -> Self:
        """The record without the versions that only their owner sees."""
        return self._only(tuple(entry for entry in self.versions if entry.visibility == "public"))

    def entry(self, version: str) -> AdapterEntry | None:
        """Return a version, deleted or not, by its whole digest."""
        return next((entry for entry in self.versions if entry.version == version), None)

    def exact(self, reference: Reference) -> AdapterEntry:
        """Return the one live version that a reference means, whatever its state.

        Raises:
            UnknownAdapterError: there is none.
            AdapterConflictError: there are several.
        """
        if reference.digits:
            found = [entry for entry in self.live if entry.version.startswith(reference.digits)]
        else:
            alias = self._alias(reference.alias)
            found = [entry for entry in self.live if entry.version in alias.versions]
        if not found:
            raise UnknownAdapterError(f"adapter {str(reference)!r} is not in the catalog")
        if len(found) > 1:
            shown = ", ".join(entry.shown for entry in found)
            raise AdapterConflictError(f"adapter {str(reference)!r} means several versions: {shown}; name one of them")
        return found[0]

    def meant(self, reference: Reference) -> tuple[AdapterEntry, ...]:
        """Return the live versions that a reference means: all of them if it is the bare name.

        Raises:
            UnknownAdapterError: there is none.
            AdapterConflictError: it means several, and is not the bare name.
        """
        if not reference.is_bare:
            return (self.exact(reference),)
        if self.is_deleted:
            raise UnknownAdapterError(f"adapter {self.name!r} is not in the catalog")
        return self.live

    def called(self, reference: Reference, key: str = "") -> AdapterEntry:
        """Return the version that a call goes to.

        Args:
            reference: what the call names.
            key: what stands for the conversation, see :func:`~aloraserve.adapters.catalog.alias.choose`.

        Raises:
            UnknownAdapterError: there is none.
            AdapterConflictError: the digits are those of several versions.
            RetiredAdapterError: it takes no new calls.
        """
        if reference.digits:
            return _callable(self.exact(reference), reference)
        alias = self._alias(reference.alias)
        entries = {entry.version: entry for entry in self.live}
        # A retired version of several leaves its conversations to the others.
        ready = [share for share in alias.shares if (entry := entries.get(share.version)) and entry.state.is_callable]
        if ready:
            return entries[choose(ready, f"{self.name}@{reference.alias}", key)]
        gone = next((entries[version] for version in alias.versions if version in entries), None)
        if gone is None:
            raise UnknownAdapterError(f"adapter {str(reference)!r} is not in the catalog")
        return _callable(gone, reference)

    def aliases_of(self, version: str) -> tuple[str, ...]:
        """Return the aliases that point to a version."""
        return tuple(sorted(name for name, alias in self.aliases.items() if version in alias.versions))

    def added(self, entry: AdapterEntry, *, promote: bool) -> Self:
        """Return the record with another version.

        Args:
            entry: of this name.
            promote: whether the plain name stands for it from now on; the first version's always does.

        Raises:
            AdapterConflictError: the version is there, the name is another tenant's, or there are too many.
        """
        known = self.entry(entry.version)
        if known is not None and known.state is not AdapterState.DELETED:
            raise AdapterConflictError(
                f"adapter {entry.shown!r} is in the catalog already, {known.state}; delete it to register it again"
            )
        if self.live and entry.owner != self.owner:
            raise AdapterConflictError(f"the name {self.name!r} is taken; choose another one")
        if len(self.live) >= MAX_VERSIONS:
            raise AdapterConflictError(f"adapter {self.name!r} has {MAX_VERSIONS} versions, the most; delete one first")
        others = [other for other in self.versions if other.version != entry.version]
        record = self._with(versions=(*others, entry))
        if not promote and CURRENT in record.aliases:
            return record
        return record.pointed(CURRENT, [Share(version=entry.version)], entry.history[-1].at, "registered")

    def pointed(self, alias: str, shares: Sequence[Share], at: float, reason: str) -> Self:
        """Return the record with an alias that points to these versions.

        Raises:
            InvalidRequestError: the alias or the shares are not accepted.
            AdapterConflictError: a version does not take calls, or there are too many aliases.
        """
        check_alias(alias)
        if not is_whole(shares):
            raise InvalidRequestError(f"the shares of {self.name}@{alias} do not add up to 1", param="share")
        for share in shares:
            entry = self.entry(share.version)
            if entry is None or not entry.state.is_callable:
                state = AdapterState.DELETED if entry is None else entry.state
                raise AdapterConflictError(
                    f"{self.name}@{alias} cannot point to {self.name}@{share.version[:12]}, which is {state}; "
                    "a version that is available or loaded is accepted"
                )
        known = self.aliases.get(alias)
        if known is None and len(self.aliases) >= MAX_ALIASES:
            raise AdapterConflictError(f"adapter {self.name!r} has {MAX_ALIASES} aliases, the most; remove one first")
        if known is not None and known.shares == tuple(shares):
            return self
        pointed = Alias(
            shares=tuple(shares),
            at=at,
            reason=reason[:MAX_REASON_CHARACTERS],
            previous=() if known is None else known.shares,
        )
        return self._with(aliases=self.aliases | {alias: pointed})

    def rolled_back(self, alias: str, at: float, reason: str) -> Self:
        """Return the record with an alias that points where it pointed before; twice is where it points now.

        Raises:
            UnknownAdapterError: there is no such alias.
            AdapterConflictError: it never pointed elsewhere, or a version there takes no calls any more.
        """
        known = self._alias(alias)
        if not known.previous:
            raise AdapterConflictError(f"{self.name}@{alias} has never pointed elsewhere; nothing to roll back to")
        return self.pointed(alias, known.previous, at, reason)

    def without_alias(self, alias: str) -> Self:
        """Return the record without an alias.

        Raises:
            UnknownAdapterError: there is no such alias.
            AdapterConflictError: it is the one that the plain name stands for.
        """
        self._alias(alias)
        if alias == CURRENT:
            raise AdapterConflictError(f"the alias {CURRENT!r} cannot be removed; retire or delete the adapter instead")
        return self._with(aliases={name: known for name, known in self.aliases.items() if name != alias})

    def moved(self, versions: Collection[str], state: AdapterState, at: float, reason: str) -> Self:
        """Return the record with these versions in another state."""
        moved = (entry.moved(state, at, reason) if entry.version in versions else entry for entry in self.versions)
        record = self._with(versions=_remembered(moved))
        return record._without_deleted() if state is AdapterState.DELETED else record

    def _without_deleted(self) -> Self:
        """Return the record whose aliases point to no version that is deleted, now or after a rollback."""
        live = {entry.version for entry in self.live}
        aliases = {}
        for name, alias in self.aliases.items():
            if shares := _rest(alias.shares, live):
                previous = alias.previous if all(share.version in live for share in alias.previous) else ()
                aliases[name] = msgspec.structs.replace(alias, shares=shares, previous=previous)
        return self._with(aliases=aliases)

    def _alias(self, alias: str) -> Alias:
        known = self.aliases.get(alias)
        if known is None:
            raise UnknownAdapterError(f"adapter {self.name!r} has no alias {alias!r}")
        return known

    def _only(self, versions: tuple[AdapterEntry, ...]) -> Self:
        return self if len(versions) == len(self.versions) else self._with(versions=versions)

    def _with(self, **changes: object) -> Self:
        return msgspec.structs.replace(self, **changes)


def check_record(record: AdapterRecord) -> None:
    """Pass a record that was read from outside: each part by itself and all together.

    Raises:
        InvalidRequestError: says what is wrong.
    """
    if problem := _problem(record):
        raise InvalidRequestError(f"adapter {record.name[:80]!r}: {problem}")


def _problem(record: AdapterRecord) -> str | None:
    if len(record.live) > MAX_VERSIONS or len(record.versions) - len(record.live) > MAX_DELETED:
        return f"it has {len(record.versions)} versions; {MAX_VERSIONS} and {MAX_DELETED} deleted ones are accepted"
    if len(record.aliases) > MAX_ALIASES:
        return f"it has {len(record.aliases)} aliases; {MAX_ALIASES} are accepted"
    if len({entry.version for entry in record.versions}) < len(record.versions):
        return "it has a version twice"
    if len({entry.owner for entry in record.live}) > 1:
        return "its versions have different owners"
    for entry in record.versions:
        if entry.name != record.name:
            return f"it has a version of {entry.name[:80]!r}"
        if problem := entry.problem:
            return problem
    known = {entry.version for entry in record.live}
    for name, alias in record.aliases.items():
        check_alias(name)
        if problem := reason_problem(alias.reason):
            return f"its alias {name!r}: {problem}"
        if not is_whole(alias.shares) or not known.issuperset(alias.versions):
            return f"its alias {name!r} has shares that do not add up to 1, or points to a version that is not there"
    return None


def _callable(entry: AdapterEntry, reference: Reference) -> AdapterEntry:
    if entry.state.is_callable:
        return entry
    if entry.state is AdapterState.RETIRED:
        because = f": {entry.reason}" if entry.reason else ""
        raise RetiredAdapterError(f"model {str(reference)!r} is retired and takes no calls{because}", param="model")
    raise UnknownAdapterError(f"adapter {str(reference)!r} is {entry.state} and takes no calls yet")


def _remembered(entries: Iterable[AdapterEntry]) -> tuple[AdapterEntry, ...]:
    """Return entries without those that were deleted long ago."""
    found = tuple(entries)
    deleted = [entry for entry in found if entry.state is AdapterState.DELETED]
    forgotten = sorted(deleted, key=lambda entry: entry.history[-1].at)[: max(0, len(deleted) - MAX_DELETED)]
    return tuple(entry for entry in found if entry not in forgotten)


def _rest(shares: Sequence[Share], live: Collection[str]) -> tuple[Share, ...]:
    left = [share for share in shares if share.version in live]
    whole = sum(share.share for share in left)
    return tuple(Share(version=share.version, share=share.share / whole) for share in left)
