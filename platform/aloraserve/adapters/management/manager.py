"""What an operator can do with adapters. HTTP, the command line and whatever comes later call this and nothing else."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence

from aloraserve.adapters.catalog.alias import CURRENT, Share
from aloraserve.adapters.catalog.base import AdapterCatalog
from aloraserve.adapters.catalog.editing import edit
from aloraserve.adapters.catalog.entry import AdapterEntry, AdapterState, reason_problem
from aloraserve.adapters.catalog.query import EntryPage, EntryQuery
from aloraserve.adapters.catalog.record import AdapterRecord
from aloraserve.adapters.catalog.reference import Reference
from aloraserve.adapters.catalog.view import CatalogView
from aloraserve.adapters.checks import CheckReport
from aloraserve.adapters.management.base import (
    AdapterIntake,
    AdapterUsage,
    RegistrationRequest,
    Usage,
)
from aloraserve.adapters.management.registration import Registration
from aloraserve.adapters.management.registrations import Registrations
from aloraserve.adapters.management.transfer import ImportResult, export_catalog, import_catalog
from aloraserve.adapters.management.unused import release_unused
from aloraserve.errors import (
    AdapterConflictError,
    DirectoryUnavailableError,
    InvalidRequestError,
    UnknownAdapterError,
)

OnChange = Callable[[], Awaitable[None]]


async def _unnoticed() -> None:
    """Nobody waits for changes."""


class AdapterManager:
    """See the module's docstring. For one event loop; whoever calls it has checked that the caller is an administrator.

    Every change is one step in the catalog: it is done, or it is not. References are those of
    :class:`~aloraserve.adapters.catalog.reference.Reference`. Each method that changes or reads the catalog raises
    DirectoryUnavailableError while the catalog does not answer, InvalidRequestError for a reference or a reason that is
    none, and UnknownAdapterError for a reference that means nothing.

    Args:
        catalog: of the fleet.
        view: this process's copy of it.
        intake: fetches, checks and keeps files.
        usage: knows where versions are loaded and called.
        base: fingerprint of the base model.
        base_names: names of the base model, which no adapter may take.
        namespace: of the fleet.
        on_change: awaited after each change, so that this process serves what it has just said to be done.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        catalog: AdapterCatalog,
        view: CatalogView,
        intake: AdapterIntake,
        usage: AdapterUsage,
        *,
        base: str,
        base_names: Sequence[str] = (),
        namespace: str = "",
        on_change: OnChange = _unnoticed,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._catalog = catalog
        self._view = view
        self._intake = intake
        self._usage = usage
        self._base = base
        self._base_names = base_names
        self._namespace = namespace
        self._clock = clock
        self._on_change = on_change
        self._registrations = Registrations(
            catalog, view, intake, base=base, base_names=base_names, on_change=on_change, clock=clock
        )

    async def register(self, request: RegistrationRequest) -> Registration:
        """Begin to register an adapter: it is fetched, checked, stored and then in the catalog, available.

        Wait for its end with :meth:`~aloraserve.adapters.management.registration.Registration.finished`, which raises
        why it failed: AdapterRefusedError if the check refuses it, AdapterConflictError if the version is there or
        another registration of the name was faster, AdapterSourceError or AdapterNotStoredError if the source or the
        store fails. Nothing is left of one that failed.

        Raises:
            InvalidRequestError: the request is wrong.
            AdapterConflictError: the name is taken.
            OverloadedError: too many are under way.
        """
        return await self._registrations.begin(request)

    async def validate(self, request: RegistrationRequest) -> CheckReport:
        """Fetch and check an adapter as :meth:`register` would, and keep nothing of it.

        Raises:
            InvalidRequestError: the request is wrong.
            OverloadedError: too many are under way.
            AloraserveError: its files cannot be had.
        """
        return await self._registrations.validate(request)

    def registrations(self) -> Sequence[Registration]:
        """Return the registrations under way in this process and the last that ended, the newest first."""
        return self._registrations.all()

    def registration(self, number: str) -> Registration:
        """Return one of :meth:`registrations` by its id.

        Raises:
            UnknownAdapterError: there is none with that id.
        """
        return self._registrations.get(number)

    async def list(self, query: EntryQuery) -> EntryPage:
        """Return a page of versions; while the catalog does not answer, of those that this process knows."""
        await self._refresh()
        return self._view.page(query)

    async def get(self, reference: str) -> AdapterRecord:
        """Return all that is known of an adapter: its versions and aliases."""
        stored = await self._catalog.get(Reference.read(reference).name)
        if stored is None:
            raise UnknownAdapterError(f"adapter {reference[:80]!r} is not in the catalog")
        return stored.record

    async def entry(self, reference: str) -> AdapterEntry:
        """Return the one version that a reference means, whatever its state; raises as ``exact`` of a record does."""
        return (await self.get(reference)).exact(Reference.read(reference))

    async def usage(self, entry: AdapterEntry) -> Usage:
        """Return where a version is loaded and called now; nowhere while that cannot be known."""
        try:
            return await self._usage.of(entry)
        except DirectoryUnavailableError:
            return Usage()

    async def point(self, alias: str, target: str, *, reason: str = "") -> AdapterRecord:
        """Point an alias to a version, in one step for all gateways; it is made if it is not there.

        Args:
            alias: ``name@alias``; the bare name is its :data:`~aloraserve.adapters.catalog.alias.CURRENT`.
            target: reference of the version: another alias of the name stands for what it points to now.
            reason: why.

        Raises:
            AdapterConflictError: the version takes no calls, or the alias is its own target.
        """
        place, wanted = _alias_of(alias), Reference.read(target, "target")
        _check_same(place, wanted)
        _check_reason(reason)
        return await self._edit(
            place.name,
            lambda record, at: record.pointed(
                place.alias, [Share(version=record.exact(wanted).version)], at, reason or f"points to {wanted}"
            ),
        )

    async def canary(self, alias: str, target: str, share: float, *, reason: str = "") -> AdapterRecord:
        """Give a version a share of an alias's conversations; the rest stay with its main version.

        Args:
            alias: as for :meth:`point`; has to be there.
            target: as for :meth:`point`.
            share: above 0 and below 1; 0 ends the canary.
            reason: why.

        Raises:
            InvalidRequestError: the share is not accepted.
            AdapterConflictError: the version takes no calls, or is the main one.
        """
        place, wanted = _alias_of(alias), Reference.read(target, "target")
        _check_same(place, wanted)
        _check_reason(reason)
        if not 0 <= share < 1:
            raise InvalidRequestError(f"share is {share:g}; 0 and more, and less than 1, is accepted", param="share")
        return await self._edit(
            place.name, lambda record, at: _with_canary(record, place, wanted, share, at, reason or f"canary {wanted}")
        )

    async def roll_back(self, alias: str, *, reason: str = "") -> AdapterRecord:
        """Point an alias where it pointed before.

        Raises:
            AdapterConflictError: it never pointed elsewhere, or what is there takes no calls any more.
        """
        place = _alias_of(alias)
        _check_reason(reason)
        return await self._edit(
            place.name, lambda record, at: record.rolled_back(place.alias, at, reason or "rolled back")
        )

    async def remove_alias(self, alias: str) -> AdapterRecord:
        """Remove an alias; the versions stay.

        Raises:
            AdapterConflictError: it is the one that the plain name stands for.
        """
        place = _alias_of(alias)
        return await self._edit(place.name, lambda record, _: record.without_alias(place.alias))

    async def retire(self, reference: str, *, reason: str = "") -> AdapterRecord:
        """Have a version, or all versions of a bare name, take no new calls; those in flight end on it."""
        wanted = Reference.read(reference)
        _check_reason(reason)
        return await self._edit(wanted.name, lambda record, at: _retired(record, wanted, at, reason))

    async def delete(self, reference: str, *, reason: str = "", force: bool = False) -> AdapterRecord:
        """Delete a version, or all versions of a bare name; aliases that pointed to nothing else go with it.

        Calls in flight end on it even so: files are collected only once no replica uses them.

        Args:
            reference: what to delete.
            reason: why.
            force: whether one in use is deleted too.

        Raises:
            AdapterConflictError: it is in use: an alias points to it while it takes calls, or replicas run calls of
                it, or whether they do cannot be known.
        """
        wanted = Reference.read(reference)
        _check_reason(reason)
        entries = (await self.get(reference)).meant(wanted)
        if not force:
            for entry in entries:
                await self._refuse_running(entry)
        record = await self._edit(wanted.name, lambda record, at: _deleted(record, wanted, at, reason, force))
        await release_unused(self._view, self._intake, {entry.version for entry in entries})
        return record

    async def export(self) -> bytes:
        """Return the whole catalog as one file, see :mod:`aloraserve.adapters.catalog.file`."""
        await self._view.refresh()
        return export_catalog(self._view, self._namespace)

    async def import_file(self, content: bytes, *, skip_existing: bool = False) -> ImportResult:
        """Put the records of a file into the catalog, each as a whole. The store must have their weights.

        Args:
            content: of the file.
            skip_existing: whether names that the catalog has stay as they are; else they are a conflict.

        Raises:
            InvalidRequestError: it is not a catalog's file, or something in it is not accepted.
            AdapterConflictError: a name is there already or the base model's, or its weights are not in the store;
                nothing was imported.
        """
        await self._view.refresh()
        result = await import_catalog(
            content,
            self._catalog,
            self._view,
            self._intake,
            base=self._base,
            base_names=self._base_names,
            skip_existing=skip_existing,
        )
        await self._on_change()
        return result

    async def close(self) -> None:
        """End the registrations under way; nothing of them stays."""
        await self._registrations.close()

    async def _edit(self, name: str, change: Callable[[AdapterRecord, float], AdapterRecord]) -> AdapterRecord:
        stored = await edit(self._catalog, name, lambda record: change(record, self._clock()))
        self._view.take(*stored)
        await self._on_change()
        return stored.record

    async def _refresh(self) -> None:
        try:
            await self._view.refresh()
        except DirectoryUnavailableError:
            if not len(self._view):
                raise

    async def _refuse_running(self, entry: AdapterEntry) -> None:
        try:
            usage = await self._usage.of(entry)
        except DirectoryUnavailableError as error:
            raise AdapterConflictError(
                f"whether calls of {entry.shown} run cannot be known ({error.message}); force deletes it even so"
            ) from None
        if usage.calling:
            raise AdapterConflictError(
                f"calls of {entry.shown} run on {', '.join(usage.calling)}; retire it and wait for their end, or force"
            )


def _alias_of(text: str) -> Reference:
    place = Reference.read(text, "alias")
    if place.digits:
        raise InvalidRequestError(f"{text[:80]!r} is a version, not an alias", param="alias")
    return place


def _check_reason(reason: str) -> None:
    if problem := reason_problem(reason):
        raise InvalidRequestError(problem.removeprefix("its "), param="reason")


def _check_same(place: Reference, wanted: Reference) -> None:
    if wanted.name != place.name:
        raise InvalidRequestError(
            f"an alias of {place.name!r} points to its versions; {str(wanted)!r} is another adapter", param="target"
        )
    if wanted.alias == place.alias and not wanted.digits:
        raise AdapterConflictError(f"the alias {place.name}@{place.alias} cannot point to itself; name a version")


def _with_canary(
    record: AdapterRecord, place: Reference, wanted: Reference, share: float, at: float, reason: str
) -> AdapterRecord:
    main = _main_share(record, place)
    version = record.exact(wanted).version
    if version == main:
        raise AdapterConflictError(f"{wanted} is the main version of {place.name}@{place.alias} already")
    shares = [Share(version=main, share=1 - share), Share(version=version, share=share)] if share else []
    return record.pointed(place.alias, shares or [Share(version=main)], at, reason)


def _main_share(record: AdapterRecord, place: Reference) -> str:
    alias = record.aliases.get(place.alias)
    if alias is None:
        raise UnknownAdapterError(f"adapter {record.name!r} has no alias {place.alias!r}")
    return alias.shares[0].version


def _retired(record: AdapterRecord, wanted: Reference, at: float, reason: str) -> AdapterRecord:
    versions = [entry.version for entry in record.meant(wanted) if entry.state is not AdapterState.RETIRED]
    return record.moved(versions, AdapterState.RETIRED, at, reason)


def _deleted(record: AdapterRecord, wanted: Reference, at: float, reason: str, force: bool) -> AdapterRecord:
    entries = record.meant(wanted)
    for entry in entries:
        pointed = record.aliases_of(entry.version)
        if pointed and entry.state.is_callable and not force:
            shown = ", ".join(record.name if alias == CURRENT else f"{record.name}@{alias}" for alias in pointed)
            raise AdapterConflictError(f"{entry.shown} is in use: {shown} points to it; retire it first, or force")
    return record.moved([entry.version for entry in entries], AdapterState.DELETED, at, reason)
