"""What an operator can do with adapters, with a real store of files and intakes that fail where they are told to."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from support.catalog_entries import BASE_MODEL

from aloraserve.adapters import AdapterFacts, AdapterRef, CheckReport
from aloraserve.adapters.catalog import (
    AdapterCatalog,
    AdapterEntry,
    AdapterRecord,
    AdapterState,
    EntryQuery,
)
from aloraserve.adapters.catalog.memory import MemoryCatalog
from aloraserve.adapters.catalog.view import CatalogView
from aloraserve.adapters.checks import Sidecar
from aloraserve.adapters.management import AdapterManager, Progress, RegistrationRequest, RegistrationStage, Usage
from aloraserve.adapters.management.fetch_turns import MAX_AT_ONCE, MAX_EACH, MAX_TENANT_AT_ONCE
from aloraserve.adapters.problems import Problem, ProblemCode
from aloraserve.errors import (
    AdapterConflictError,
    AdapterNotStoredError,
    AdapterRefusedError,
    AdapterSourceError,
    AloraserveError,
    DirectoryUnavailableError,
    InvalidAdapterError,
    InvalidRequestError,
    OverloadedError,
    UnknownAdapterError,
)


def report(reason: str, digest: str) -> CheckReport:
    """Return a report that refuses for that reason, if there is one."""
    sidecar = Sidecar(labels={"team": "rag", "loading": "pinned", "stage": "beta"})
    facts = AdapterFacts("alora", 8, 16.0, ("q_proj",), (1, 2), size_bytes=100, digest=digest, sidecar=sidecar)
    problems = [Problem(ProblemCode.CONFIG, "", reason)] if reason else []
    return CheckReport.of(facts, problems)


class Intake:
    """Sources are texts; ``fails`` says at which step, and ``held`` keeps fetches under way."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.fails: dict[str, Exception] = {}
        self.held = threading.Event()
        self.held.set()
        self.reason = ""
        self.kept: set[str] = set()
        self._numbers = iter(range(1000))

    def shown(self, reference: str) -> str:
        assert threading.current_thread() is not threading.main_thread(), "a folder's volume may hang"
        self._fail("shown")
        return reference.replace("password", "***")

    def fetch(self, reference: str, *, progress: Progress, weights_sha256: str = "") -> Path:
        folder = self.root / str(next(self._numbers))
        folder.mkdir()
        try:
            self._fail("fetch")
            progress(1, 2)
            while not self.held.wait(0.01):
                progress(1, 2)
            progress(2, 2)
        except BaseException:
            shutil.rmtree(folder)
            raise
        (folder / "content").write_text(reference)
        return folder

    def check(self, name: str, folder: Path) -> CheckReport:
        self._fail("check")
        return report(self.reason, hashlib.sha256((folder / "content").read_bytes()).hexdigest())

    def keep(self, digest: str, folder: Path) -> None:
        self._fail("keep")
        self.kept.add(digest)

    def refer(self, digest: str) -> None:
        self.kept.add(digest)

    def release(self, digest: str) -> None:
        self.kept.discard(digest)

    def has(self, digest: str) -> bool:
        return digest in self.kept

    def discard(self, folder: Path) -> None:
        shutil.rmtree(folder)

    def _fail(self, step: str) -> None:
        if step in self.fails:
            raise self.fails[step]


class Busy:
    """Says where versions are called."""

    def __init__(self) -> None:
        self.calling: tuple[str, ...] = ()
        self.error: DirectoryUnavailableError | None = None

    async def of(self, entry: AdapterEntry) -> Usage:
        if self.error is not None:
            raise self.error
        return Usage(("engine-0",), self.calling)


class Racing(MemoryCatalog):
    """Lets another call go first before each put, and loses the connection before or after one."""

    def __init__(self) -> None:
        super().__init__()
        self.first: list[AdapterRecord] = []
        self.gone = ""

    async def put(self, record: AdapterRecord, *, expected: int) -> int:
        if self.gone == "before":
            raise DirectoryUnavailableError("gone")
        if self.first:
            other = self.first.pop(0)
            known = await self.get(other.name)
            await super().put(other, expected=0 if known is None else known.revision)
        revision = await super().put(record, expected=expected)
        if self.gone == "after":
            raise DirectoryUnavailableError("gone")
        return revision


@pytest.fixture
def intake(tmp_path: Path) -> Intake:
    return Intake(tmp_path)


@pytest.fixture
def catalog() -> Racing:
    return Racing()


@pytest.fixture
def busy() -> Busy:
    return Busy()


@pytest.fixture
async def manager(catalog: Racing, intake: Intake, busy: Busy) -> AsyncIterator[AdapterManager]:
    made = manage(catalog, intake, busy)
    yield made
    await made.close()
    assert list(intake.root.iterdir()) == [], "nothing that was fetched is left"


def manage(catalog: AdapterCatalog, intake: Intake, busy: Busy) -> AdapterManager:
    return AdapterManager(
        catalog, CatalogView(catalog), intake, busy, base=BASE_MODEL, base_names=("base",), namespace="test"
    )


def request(name: str = "safety", source: str = "one", **changes: object) -> RegistrationRequest:
    return replace(RegistrationRequest(name, source), **changes)  # type: ignore[arg-type]


def digest(source: str) -> str:
    return hashlib.sha256(source.encode()).hexdigest()


async def register(
    manager: AdapterManager, name: str = "safety", source: str = "one", **changes: object
) -> AdapterEntry:
    return await (await manager.register(request(name, source, **changes))).finished()


async def test_a_registration_goes_from_its_source_to_the_catalog(manager: AdapterManager, intake: Intake) -> None:
    entry = await register(
        manager, source="s3://password@x", labels={"team": "trust"}, owner="acme", visibility="private", reason="first"
    )
    assert entry.source == "s3://***@x"
    assert [step.state for step in entry.history] == ["registered", "validated", "available"]
    assert entry.history[0].reason == "first"
    assert (entry.kind, entry.rank, entry.targets, entry.invocation.tokens) == ("alora", 8, ("q_proj",), (1, 2))
    assert (entry.base, entry.owner, entry.visibility, entry.labels) == (
        BASE_MODEL,
        "acme",
        "private",
        {"team": "trust", "stage": "beta"},
    )
    assert await manager.entry("safety") == entry
    assert list((await manager.list(EntryQuery())).entries) == [entry]
    [registration] = manager.registrations()
    assert registration.as_dict() | {"started_at": 0, "ended_at": 0, "id": ""} == {
        "id": "",
        "name": "safety",
        "source": "s3://***@x",
        "stage": "done",
        "bytes_done": 2,
        "bytes_total": 2,
        "started_at": 0,
        "ended_at": 0,
        "version": entry.version,
        "error": None,
    }


async def test_labels_of_files_and_request_that_are_too_many_together_are_refused(manager: AdapterManager) -> None:
    labels = {f"label-{number}": "x" for number in range(15)}
    with pytest.raises(AdapterRefusedError, match="it has 17 labels; 16 are accepted"):
        await register(manager, labels=labels)
    assert (await manager.list(EntryQuery())).entries == []


async def test_a_registration_points_what_it_is_told_to(manager: AdapterManager) -> None:
    first = await register(manager)
    second = await register(manager, source="two", promote=False, alias="next")
    record = await manager.get("safety")
    assert record.aliases["current"].versions == (first.version,)
    assert record.aliases["next"].versions == (second.version,)


async def test_validation_keeps_nothing(manager: AdapterManager, intake: Intake) -> None:
    assert (await manager.validate(request())).is_accepted
    intake.reason = "rank 4096"
    assert (await manager.validate(request())).reason == "rank 4096"
    assert intake.kept == set()
    assert (await manager.list(EntryQuery())).entries == []


@pytest.mark.parametrize("step", ["fetch", "check", "keep"])
@pytest.mark.parametrize(
    "error", [InvalidAdapterError("bad"), OverloadedError("bad"), RuntimeError("a bug at /srv/secret")]
)
async def test_a_failure_anywhere_leaves_nothing(
    manager: AdapterManager, catalog: Racing, intake: Intake, step: str, error: Exception
) -> None:
    intake.fails[step] = error
    with pytest.raises(AloraserveError) as caught:
        await register(manager)
    assert "secret" not in caught.value.message
    assert isinstance(caught.value, AdapterRefusedError) == isinstance(error, InvalidAdapterError)
    assert await catalog.get("safety") is None
    assert manager.registrations()[0].stage is RegistrationStage.FAILED
    intake.fails.clear()
    assert await register(manager)


async def test_a_full_store_and_a_bad_source_are_not_the_adapter_s_fault(
    manager: AdapterManager, intake: Intake
) -> None:
    full = InvalidAdapterError("it cannot be written to the adapter store: No space left on device")
    full.__cause__ = OSError(28, "No space left on device")
    for step, error, kind in (
        ("keep", full, AdapterNotStoredError),
        ("fetch", AdapterSourceError("it is not there"), AdapterSourceError),
    ):
        intake.fails = {step: error}
        with pytest.raises(kind, match=error.message) as caught:
            await register(manager)
        assert type(caught.value) is kind
    assert (await manager.list(EntryQuery())).entries == []


async def test_a_refused_adapter_has_its_report(manager: AdapterManager, intake: Intake) -> None:
    intake.reason = "its rank is 4096; 1 to 64 is accepted"
    with pytest.raises(AdapterRefusedError, match="adapter 'safety' is refused: its rank is 4096"):
        await register(manager)
    found = manager.registrations()[0].report
    assert found is not None
    assert found.reason == intake.reason
    assert intake.kept == set()


async def test_a_server_that_dies_midway_leaves_all_or_nothing(manager: AdapterManager, catalog: Racing) -> None:
    catalog.gone = "before"
    with pytest.raises(DirectoryUnavailableError):
        await register(manager)
    assert await catalog.get("safety") is None
    catalog.gone = "after"
    with pytest.raises(DirectoryUnavailableError):
        await register(manager)
    stored = await catalog.get("safety")
    assert stored is not None
    assert stored.record.live[0].state is AdapterState.AVAILABLE
    catalog.gone = ""
    with pytest.raises(AdapterConflictError, match="is in the catalog already, available"):
        await register(manager)


@pytest.mark.parametrize("sources", [("one", "one"), ("one", "two")])
async def test_of_two_registrations_that_race_one_wins_and_the_other_learns_it(
    manager: AdapterManager, intake: Intake, sources: tuple[str, str]
) -> None:
    intake.held.clear()
    both = [await manager.register(request(source=source)) for source in sources]
    intake.held.set()
    outcomes = await asyncio.gather(*(each.finished() for each in both), return_exceptions=True)
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["AdapterConflictError", "AdapterEntry"]
    assert len((await manager.get("safety")).live) == 1
    [lost] = [outcome for outcome in outcomes if isinstance(outcome, AdapterConflictError)]
    assert "another call meanwhile" in lost.message


async def test_a_change_that_does_not_concern_it_does_not_end_a_registration(
    manager: AdapterManager, catalog: Racing
) -> None:
    await register(manager)
    stored = await catalog.get("safety")
    assert stored is not None
    noted = stored.record.moved([digest("one")], AdapterState.LOADED, 0.0, "loaded by engine-0")
    catalog.first = [noted]
    await register(manager, source="two")
    assert [each.state for each in (await manager.get("safety")).live] == ["loaded", "available"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"name": "base"}, "is the base model's"),
        ({"name": "a/b"}, "its name is 'a/b'"),
        ({"name": "safety\x00"}, "its name is"),
        ({"name": "safety@prod"}, "its name is"),
        ({"alias": "Prod"}, "alias 'Prod' is not accepted"),
        ({"visibility": "private"}, "it is private and has no owner"),
        ({"labels": {"a b": "c"}}, "it has the label 'a b'"),
        ({"labels": {str(number): "" for number in range(17)}}, "it has 17 labels; 16 are accepted"),
    ],
)
async def test_a_wrong_request_is_refused_before_anything_is_fetched(
    manager: AdapterManager, intake: Intake, changes: dict[str, object], said: str
) -> None:
    intake.fails["fetch"] = AssertionError("fetched")
    for call in (manager.register, manager.validate):
        with pytest.raises(InvalidRequestError, match=said):
            await call(request(**changes))  # type: ignore[arg-type]
    assert manager.registrations() == []


async def test_a_taken_name_is_refused_before_anything_is_fetched(manager: AdapterManager, intake: Intake) -> None:
    await register(manager, owner="acme", visibility="private")
    intake.fails["fetch"] = AssertionError("fetched")
    with pytest.raises(AdapterConflictError, match="the name 'safety' is taken") as caught:
        await manager.register(request(source="two", owner="other"))
    assert "acme" not in caught.value.message


async def test_registrations_are_bounded_and_can_be_seen_and_cancelled(manager: AdapterManager, intake: Intake) -> None:
    intake.held.clear()
    running = [await manager.register(request(f"adapter-{number}")) for number in range(MAX_EACH)]
    for call in (manager.register, manager.validate):
        with pytest.raises(OverloadedError, match="adapters are being fetched, the most at once"):
            await call(request("more"))  # type: ignore[arg-type]
    assert manager.registration(running[0].id).stage is RegistrationStage.FETCHING
    await running[0].cancel()
    with pytest.raises(AdapterConflictError, match="was cancelled"):
        await running[0].finished()
    intake.held.set()
    for each in running[1:]:
        await each.finished()
    assert await register(manager, "more")
    with pytest.raises(UnknownAdapterError, match="there is no registration 'unknown'"):
        manager.registration("unknown")


async def stages(manager: AdapterManager, owner: str) -> list[str]:
    """Return what a tenant's registrations are doing, once every task has begun."""
    for _ in range(3):
        await asyncio.sleep(0)
    return sorted(each.stage for each in manager.registrations() if each.request.owner == owner)


async def test_a_tenant_with_slow_sources_leaves_turns_to_others(manager: AdapterManager, intake: Intake) -> None:
    intake.held.clear()
    owners = [owner for owner in ("greedy", "second", "third") for _ in range(MAX_EACH)]
    running = [
        await manager.register(request(f"{owner}-{number}", source=f"{number}", owner=owner, visibility="private"))
        for number, owner in enumerate(owners)
    ]
    assert await stages(manager, "greedy") == ["fetching"] * MAX_TENANT_AT_ONCE + ["waiting"] * 2
    assert await stages(manager, "second") == ["fetching"] * (MAX_AT_ONCE - MAX_TENANT_AT_ONCE) + ["waiting"] * 2
    assert await stages(manager, "third") == ["waiting"] * MAX_EACH
    with pytest.raises(OverloadedError, match="the most at once"):
        await manager.register(request("more", owner="greedy", visibility="private"))
    await running[0].cancel()
    assert await stages(manager, "third") == ["fetching", *["waiting"] * (MAX_EACH - 1)], "who has none is next"
    await running[-1].cancel()
    intake.held.set()
    for each in running[1:-1]:
        assert await each.finished()


async def test_a_tenant_has_a_quota_of_versions(manager: AdapterManager, intake: Intake) -> None:
    own = {"owner": "acme", "visibility": "private", "quota": 2}
    await register(manager, "one", **own)
    await register(manager, "theirs", owner="other", visibility="private", quota=1)
    intake.held.clear()
    second = await manager.register(request("two", source="two", **own))
    with pytest.raises(AdapterConflictError, match="has 2 versions of adapters, the most"):
        await manager.register(request("three", source="three", **own))
    intake.held.set()
    await second.finished()
    with pytest.raises(AdapterConflictError, match="has 2 versions of adapters, the most"):
        await register(manager, "one", source="three", **own)
    await manager.delete("two", force=True)
    assert await register(manager, "three", source="three", **own)


async def test_a_number_that_is_taken_does_not_say_by_whom(
    manager: AdapterManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    await register(manager, "hidden", owner="acme", visibility="private")
    monkeypatch.setattr(AdapterRef, "engine_id", property(lambda ref: 7))
    with pytest.raises(AdapterConflictError, match="in engines is taken") as caught:
        await register(manager, "safety", source="two")
    assert "hidden" not in caught.value.message


async def test_aliases_switch_roll_back_and_are_removed(manager: AdapterManager) -> None:
    first, second = await register(manager), await register(manager, source="two")
    await manager.point("safety@prod", first.shown, reason="tested")
    record = await manager.point("safety@prod", "safety")
    assert record.aliases["prod"].versions == (second.version,)
    assert record.aliases["prod"].reason == "points to safety"
    record = await manager.roll_back("safety@prod")
    assert record.aliases["prod"].versions == (first.version,)
    assert "prod" not in (await manager.remove_alias("safety@prod")).aliases
    with pytest.raises(AdapterConflictError, match="cannot be removed"):
        await manager.remove_alias("safety")


async def test_a_canary_grows_and_ends(manager: AdapterManager) -> None:
    first, second = await register(manager), await register(manager, source="two", promote=False)
    for share in (0.1, 0.5):
        alias = (await manager.canary("safety", second.shown, share)).aliases["current"]
        assert [(each.version, each.share) for each in alias.shares] == [
            (first.version, 1 - share),
            (second.version, share),
        ]
    with pytest.raises(AdapterConflictError, match="means several versions: safety@"):
        await manager.point("safety@prod", "safety")
    alias = (await manager.canary("safety", second.shown, 0)).aliases["current"]
    assert alias.versions == (first.version,)
    with pytest.raises(InvalidRequestError, match=r"share is 1; 0 and more"):
        await manager.canary("safety", second.shown, 1)
    with pytest.raises(AdapterConflictError, match="is the main version"):
        await manager.canary("safety", first.shown, 0.5)


@pytest.mark.parametrize(
    ("alias", "target", "said"),
    [
        ("safety@prod", "safety@prod", "cannot point to itself"),
        ("safety", "safety@current", "cannot point to itself"),
        ("safety@prod", "safety@dev", "has no alias 'dev'"),
        ("safety@prod", f"safety@{'0' * 12}", "is not in the catalog"),
        ("safety@prod", "other", "is another adapter"),
        ("other@prod", "other", "'other' is not in the catalog"),
        (f"safety@{'0' * 12}", "safety", "is a version, not an alias"),
    ],
)
async def test_loops_and_aliases_of_nothing_are_refused(
    manager: AdapterManager, alias: str, target: str, said: str
) -> None:
    await register(manager)
    before = await manager.get("safety")
    with pytest.raises((AdapterConflictError, UnknownAdapterError, InvalidRequestError), match=said):
        await manager.point(alias, target)
    assert await manager.get("safety") == before


async def test_one_in_use_is_deleted_by_force_alone(manager: AdapterManager, busy: Busy) -> None:
    first, second = await register(manager), await register(manager, source="two")
    await manager.point("safety@prod", first.shown)
    with pytest.raises(AdapterConflictError, match="is in use: safety@prod points to it; retire it first, or force"):
        await manager.delete(first.shown)
    with pytest.raises(AdapterConflictError, match="is in use: safety points to it"):
        await manager.delete(second.shown)
    await manager.retire(first.shown, reason="old")
    busy.calling = ("engine-1",)
    with pytest.raises(AdapterConflictError, match="run on engine-1; retire it and wait for their end, or force"):
        await manager.delete(first.shown)
    busy.error = DirectoryUnavailableError("the directory does not answer")
    with pytest.raises(AdapterConflictError, match="cannot be known"):
        await manager.delete(first.shown)
    busy.calling, busy.error = (), None
    assert [each.version for each in (await manager.delete(first.shown)).live] == [second.version]
    busy.calling = ("engine-1",)
    assert (await manager.delete("safety", force=True, reason="wrong")).is_deleted
    with pytest.raises(UnknownAdapterError):
        await manager.entry("safety")
    gone = (await manager.list(EntryQuery(state=AdapterState.DELETED))).entries
    assert [(each.version, each.reason) for each in gone] == [(first.version, ""), (second.version, "wrong")]


async def test_a_bare_name_retires_all_versions(manager: AdapterManager) -> None:
    await register(manager)
    await register(manager, source="two")
    record = await manager.retire("safety", reason="unsafe")
    assert [(each.state, each.reason) for each in record.live] == [(AdapterState.RETIRED, "unsafe")] * 2
    assert await manager.retire("safety", reason="again") == record


async def test_a_catalog_moves_to_another_fleet_as_one_file(
    manager: AdapterManager, intake: Intake, busy: Busy
) -> None:
    await register(manager, labels={"team": "trust"})
    await register(manager, source="two")
    await register(manager, "gone", "three")
    await manager.delete("gone", force=True)
    content = await manager.export()
    other = manage(MemoryCatalog(), intake, busy)
    result = await other.import_file(content)
    assert (result.imported, result.skipped) == (("safety",), ())
    assert await other.get("safety") == await manager.get("safety")
    with pytest.raises(AdapterConflictError, match="the catalog has safety already"):
        await other.import_file(content)
    assert (await other.import_file(content, skip_existing=True)).skipped == ("safety",)


async def test_nothing_is_imported_of_a_file_that_does_not_fit(
    manager: AdapterManager, intake: Intake, busy: Busy
) -> None:
    await register(manager)
    content = await manager.export()
    emptied = MemoryCatalog()
    other = manage(emptied, intake, busy)
    wrong = [
        (content.replace(BASE_MODEL.encode(), b"other"), "was checked for another base model"),
        (content.replace(digest("one").encode(), b"0" * 64), "has no weights in the store"),
        (content.replace(digest("one").encode(), b"../../../etc"), "its version is '../../../etc'"),
        (content.replace(b'"safety"', b'"saf/ety"'), "its name is 'saf/ety'"),
        (content.replace(b'"safety"', b'"base"'), "nothing was imported: base has the base model's name"),
        (content.replace(b'"schema":1', b'"schema":2'), r"it is not a catalog's file: .*schema"),
        (content.replace(b'"rank"', b'"pwned":1,"rank"'), "it is not a catalog's file: .*unknown field"),
        (content[:-5], "it is not a catalog's file"),
        (b"[" * 100_000, "it is not a catalog's file"),
        (b"\xff\xfe", "it is not a catalog's file"),
        (content.replace(b'"current":', b'"Cur rent":'), "alias 'Cur rent' is not accepted"),
    ]
    for changed, said in wrong:
        assert changed != content
        with pytest.raises((InvalidRequestError, AdapterConflictError), match=said):
            await other.import_file(changed)
    assert await emptied.get("safety") is None


async def test_lists_go_on_while_the_catalog_is_away(manager: AdapterManager, catalog: Racing) -> None:
    await register(manager)

    async def gone(since: object) -> None:
        raise DirectoryUnavailableError("gone")

    catalog.changes = gone  # type: ignore[assignment, method-assign]
    assert [each.name for each in (await manager.list(EntryQuery())).entries] == ["safety"]
