"""Registrations of this process: a few at once, each from its source to the catalog or to nothing."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path

import structlog

from aloraserve.adapters.base import AdapterVersion
from aloraserve.adapters.catalog.alias import CURRENT, Share
from aloraserve.adapters.catalog.base import AdapterCatalog, StoredRecord
from aloraserve.adapters.catalog.entry import (
    LOADING_LABEL,
    AdapterEntry,
    AdapterState,
    StateChange,
    entry_parts,
    label_problem,
)
from aloraserve.adapters.catalog.record import AdapterRecord
from aloraserve.adapters.catalog.reference import check_alias
from aloraserve.adapters.catalog.view import CatalogView
from aloraserve.adapters.checks import CheckReport
from aloraserve.adapters.management.base import AdapterIntake, RegistrationRequest
from aloraserve.adapters.management.fetch_turns import FetchTurns
from aloraserve.adapters.management.registration import Registration, RegistrationStage
from aloraserve.adapters.management.unused import release_unused
from aloraserve.errors import (
    AdapterChangedError,
    AdapterConflictError,
    AdapterNotStoredError,
    AdapterRefusedError,
    AdapterSourceError,
    AloraserveError,
    InvalidAdapterError,
    InvalidRequestError,
    UnknownAdapterError,
)

MAX_ENDED = 64
MAX_TRIES = 8

log = structlog.get_logger(__name__)


class Registrations:
    """See the module's docstring; the arguments are those of the manager. For one event loop."""

    def __init__(
        self,
        catalog: AdapterCatalog,
        view: CatalogView,
        intake: AdapterIntake,
        *,
        base: str,
        base_names: Sequence[str],
        on_change: Callable[[], Awaitable[None]],
        clock: Callable[[], float],
    ) -> None:
        self._catalog = catalog
        self._view = view
        self._intake = intake
        self._base = base
        self._base_names = base_names
        self._on_change = on_change
        self._clock = clock
        self._turns = FetchTurns()
        self._known: OrderedDict[str, Registration] = OrderedDict()

    async def begin(self, request: RegistrationRequest) -> Registration:
        """See the manager's ``register``."""
        source = await asyncio.to_thread(self._accepted, request)
        seen = await self._catalog.get(request.name)
        _check_free(request, seen)
        self._check_quota(request)
        self._turns.enter(request.owner)
        registration = Registration(secrets.token_hex(6), request, source)
        self._keep(registration)
        task = asyncio.create_task(self._run(registration, seen), name="register_adapter")
        registration.run_as(task)
        task.add_done_callback(lambda _: self._end(registration))
        return registration

    async def validate(self, request: RegistrationRequest) -> CheckReport:
        """See the manager's ``validate``."""
        source = await asyncio.to_thread(self._accepted, request)
        self._turns.enter(request.owner)
        try:
            async with self._fetched(Registration("", request, source)) as folder:
                return await asyncio.to_thread(self._intake.check, request.name, folder)
        finally:
            self._turns.leave(request.owner)

    def all(self) -> Sequence[Registration]:
        """See the manager's ``registrations``."""
        return list(reversed(self._known.values()))

    def get(self, number: str) -> Registration:
        """See the manager's ``registration``."""
        found = self._known.get(number)
        if found is None:
            raise UnknownAdapterError(
                f"there is no registration {number[:40]!r} in this gateway; the last {MAX_ENDED} are kept"
            )
        return found

    async def close(self) -> None:
        """See the manager's ``close``."""
        await asyncio.gather(*(each.cancel() for each in self._known.values() if not each.stage.is_end))

    def _accepted(self, request: RegistrationRequest) -> str:
        """Return the source's reference without secrets, once the request is found to be one."""
        if request.alias:
            check_alias(request.alias)
        if request.name in self._base_names:
            raise InvalidRequestError(f"name {request.name!r} is the base model's; choose another one", param="name")
        if problem := _entry(_placeholder(request), request, self._base, "", 0.0, 0.0, 0.0).problem:
            raise InvalidRequestError(f"the adapter cannot be registered: {problem}", param="name")
        return self._intake.shown(request.source)

    def _check_quota(self, request: RegistrationRequest) -> None:
        """Refuse more versions than an owner may have; other gateways' count once this one knows them."""
        if request.quota is None:
            return
        live = (entry for stored in self._view for entry in stored.record.live)
        count = sum(entry.owner == request.owner for entry in live) + self._turns.under_way(request.owner)
        if count >= request.quota:
            raise AdapterConflictError(
                f"the tenant has {request.quota} versions of adapters, the most that are accepted, with those that are "
                "being registered; delete one first"
            )

    def _keep(self, registration: Registration) -> None:
        self._known[registration.id] = registration
        ended = [number for number, each in self._known.items() if each.stage.is_end]
        for number in ended[: max(0, len(ended) - MAX_ENDED)]:
            del self._known[number]

    async def _run(self, registration: Registration, seen: StoredRecord | None) -> None:
        """Do it to its end, whichever that is."""
        name = registration.request.name
        try:
            registration.ended(entry=await self._register(registration, seen))
            log.info("adapter_registered", adapter=registration.entry and registration.entry.shown)
        except InvalidAdapterError as error:
            registration.ended(error=_refusal(name, error))
        except AloraserveError as error:
            registration.ended(error=error)
        except Exception:
            log.exception("registration_failed", adapter=name)
            registration.ended(error=AloraserveError(f"adapter {name!r} was not registered; the log says why"))

    def _end(self, registration: Registration) -> None:
        """Note the end, also of one that was cancelled before its first step."""
        self._turns.leave(registration.request.owner)
        if not registration.stage.is_end:
            name = registration.request.name
            registration.ended(error=AdapterConflictError(f"the registration of {name!r} was cancelled"))

    async def _register(self, registration: Registration, seen: StoredRecord | None) -> AdapterEntry:
        request, began_at = registration.request, self._clock()
        async with self._fetched(registration) as folder:
            registration.stage = RegistrationStage.CHECKING
            report = registration.report = await asyncio.to_thread(self._intake.check, request.name, folder)
            if not report.is_accepted:
                raise InvalidAdapterError(report.reason)
            request = replace(request, labels=_labels(request, report))
            version, checked_at = report.version(request.name, folder), self._clock()
            registration.stage = RegistrationStage.STORING
            await asyncio.to_thread(self._intake.keep, version.digest, folder)
        registration.stage = RegistrationStage.CATALOGUING
        entry = _entry(version, request, self._base, registration.source, began_at, checked_at, self._clock())
        try:
            return await self._publish(entry, request, seen)
        except AdapterConflictError:
            await release_unused(self._view, self._intake, [entry.version])
            raise

    @contextlib.asynccontextmanager
    async def _fetched(self, registration: Registration) -> AsyncIterator[Path]:
        """Have a registration's files in a folder, once it is its turn."""
        owner = registration.request.owner
        if not self._turns.is_free(owner):
            registration.stage = RegistrationStage.WAITING
        async with self._turns.turn(owner):
            registration.stage = RegistrationStage.FETCHING
            folder = await self._fetch(registration)
            try:
                yield folder
            finally:
                await asyncio.shield(asyncio.to_thread(self._intake.discard, folder))

    async def _fetch(self, registration: Registration) -> Path:
        request = registration.request
        # What is cancelled ends with its next chunk, and leaves nothing.
        stopping = False

        def progress(done: int, total: int) -> None:
            if stopping:
                raise InvalidRequestError("the registration was cancelled")
            registration.progress(done, total)

        fetch = asyncio.create_task(
            asyncio.to_thread(
                self._intake.fetch, request.source, progress=progress, weights_sha256=request.weights_sha256
            )
        )
        try:
            return await asyncio.shield(fetch)
        except asyncio.CancelledError:
            stopping = True
            fetch.add_done_callback(self._discard_late)
            raise

    def _discard_late(self, fetch: asyncio.Task[Path]) -> None:
        if not fetch.cancelled() and fetch.exception() is None:
            self._intake.discard(fetch.result())

    async def _publish(
        self, entry: AdapterEntry, request: RegistrationRequest, seen: StoredRecord | None
    ) -> AdapterEntry:
        """Put the version into the catalog in one step, unless the name is another one's by now."""
        if await asyncio.to_thread(_has_number, entry, list(self._view)):
            # Whose it is does not concern who asks: it may be another tenant's.
            raise AdapterConflictError(f"the number of {entry.shown} in engines is taken; choose another name")
        for _ in range(MAX_TRIES):
            stored = await self._catalog.get(entry.name)
            if _state(stored) != _state(seen):
                raise AdapterConflictError(
                    f"adapter {entry.name!r} was registered or pointed elsewhere by another call meanwhile; "
                    "look at it and try again"
                )
            record = _with(AdapterRecord(name=entry.name) if stored is None else stored.record, entry, request)
            try:
                revision = await self._catalog.put(record, expected=0 if stored is None else stored.revision)
            except AdapterChangedError as error:
                lost = error
                continue
            self._view.take(record, revision)
            await self._on_change()
            return entry
        raise lost


def _refusal(name: str, error: InvalidAdapterError) -> AloraserveError:
    """Return why an adapter is not registered: its source's fault, that of a store that is full, or its own."""
    if isinstance(error, AdapterSourceError):
        return AdapterSourceError(f"adapter {name!r} is refused: {error.message}")
    if isinstance(error.__cause__, OSError):
        return AdapterNotStoredError(f"adapter {name!r} is not registered: {error.message}")
    return AdapterRefusedError(f"adapter {name!r} is refused: {error.message}")


def _check_free(request: RegistrationRequest, seen: StoredRecord | None) -> None:
    """Say at once what would be said after the fetch."""
    if seen is not None and not seen.record.is_deleted and seen.record.owner != request.owner:
        raise AdapterConflictError(f"the name {request.name!r} is taken; choose another one")


def _labels(request: RegistrationRequest, report: CheckReport) -> dict[str, str]:
    """Return the labels of the files and of the request, whose own count; when replicas load it says the request alone.

    Raises:
        InvalidAdapterError: they are not accepted together.
    """
    own = {label: value for label, value in report.facts.sidecar.labels.items() if label != LOADING_LABEL}
    labels = own | dict(request.labels)
    if problem := label_problem(labels):
        raise InvalidAdapterError(problem)
    return labels


def _has_number(entry: AdapterEntry, others: Sequence[StoredRecord]) -> bool:
    """Return whether there is a version that engines could not distinguish from this one."""
    number, name = entry.ref.engine_id, entry.engine_name
    known = (other for stored in others for other in stored.record.live if other.engine_name != name)
    return any(other.ref.engine_id == number for other in known)


def _state(stored: StoredRecord | None) -> tuple[object, object]:
    """Return what two registrations of a name must not both change: its versions, and which it stands for."""
    if stored is None or stored.record.is_deleted:
        return frozenset(), None
    record = stored.record
    current = record.aliases.get(CURRENT)
    return frozenset(entry.version for entry in record.live), current and current.shares


def _with(record: AdapterRecord, entry: AdapterEntry, request: RegistrationRequest) -> AdapterRecord:
    added = record.added(entry, promote=request.promote)
    if not request.alias:
        return added
    share = Share(version=entry.version)
    return added.pointed(request.alias, [share], entry.history[-1].at, "registered")


def _entry(
    version: AdapterVersion,
    request: RegistrationRequest,
    base: str,
    source: str,
    began_at: float,
    checked_at: float,
    stored_at: float,
) -> AdapterEntry:
    return AdapterEntry(
        **entry_parts(version),
        base=base,
        owner=request.owner,
        visibility=request.visibility,
        labels=dict(request.labels),
        source=source,
        history=(
            StateChange(state=AdapterState.REGISTERED, at=began_at, reason=request.reason or "registered"),
            StateChange(state=AdapterState.VALIDATED, at=checked_at, reason="passed the check"),
            StateChange(state=AdapterState.AVAILABLE, at=stored_at, reason="in the store"),
        ),
    )


def _placeholder(request: RegistrationRequest) -> AdapterVersion:
    """Return a version to try a request's other parts with."""
    return AdapterVersion(request.name, "lora", Path(), 1, (), (), "0" * 64)
