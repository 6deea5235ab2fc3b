"""The folder registry: good adapters are served, bad ones listed with the reason; changes count once settled."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.peft_adapters import read_adapter

from aloraserve.adapters import (
    AdapterLimits,
    AdapterReader,
    AdapterRef,
    AdapterStore,
    AdapterVersion,
    BaseShape,
    FolderRegistry,
    folder,
)
from aloraserve.adapters.retired import MAX_RETIRED, RETIRED_S
from aloraserve.adapters.subfolder import BAD_READINGS
from aloraserve.errors import SettingsError, UnknownModelError

Write = Callable[..., Path]


def registry(root: Path, base: BaseShape, **options: Any) -> FolderRegistry:
    return FolderRegistry(root, AdapterReader(base=base, base_names=("base",), max_rank=8, **options))


def served(found: FolderRegistry) -> list[str]:
    return [version.name for version in found.all()]


def refused(found: FolderRegistry) -> dict[str, str]:
    return {adapter.name: adapter.reason for adapter in found.refused()}


async def settled(found: FolderRegistry, readings: int = 2) -> None:
    for _ in range(readings):
        await found.read()


class TestWhenItStarts:
    def test_a_bad_adapter_hides_no_good_one(self, write_adapter: Write, base: BaseShape, tmp_path: Path) -> None:
        write_adapter("zeta")
        write_adapter("bad", r=99)
        write_adapter("alpha", alora_invocation_tokens=[1])
        (tmp_path / ".partial").mkdir()
        (tmp_path / "notes.txt").write_text("not an adapter")
        found = registry(tmp_path, base)
        assert served(found) == ["alpha", "zeta"]
        assert list(refused(found)) == ["bad"]
        assert "r 99" in refused(found)["bad"]
        with pytest.raises(UnknownModelError):
            found.resolve("bad")
        assert found.resolve("alpha") is found.all()[0]

    def test_the_base_model_s_name_cannot_be_taken(self, write_adapter: Write, base: BaseShape, tmp_path: Path) -> None:
        write_adapter("base")
        assert "base model's" in refused(registry(tmp_path, base))["base"]

    def test_adapters_above_the_bound_are_refused(
        self, write_adapter: Write, base: BaseShape, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(folder, "MAX_ADAPTERS", 1)
        write_adapter("a")
        write_adapter("b")
        found = registry(tmp_path, base)
        assert served(found) == ["a"]
        assert list(refused(found)) == ["b"]

    def test_subfolders_above_the_bound_are_passed_over(
        self, write_adapter: Write, base: BaseShape, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(folder, "MAX_SUBFOLDERS", 1)
        write_adapter("a", r=99)
        write_adapter("b")
        found = registry(tmp_path, base)
        assert (served(found), list(refused(found))) == ([], ["a"])

    @pytest.mark.parametrize("name", [b"a\x1b[31mb", b"a\nb", b"\xff\xfe", "\u202e".encode()])
    def test_a_name_that_cannot_be_printed_breaks_no_list(
        self, write_adapter: Write, base: BaseShape, tmp_path: Path, name: bytes
    ) -> None:
        write_adapter("good")
        write_adapter("bad").rename(tmp_path / os.fsdecode(name))
        found = registry(tmp_path, base)
        assert served(found) == ["good"]
        ((shown, reason),) = refused(found).items()
        assert shown.isprintable()
        assert "letters, digits" in reason
        assert json.dumps([shown, reason], ensure_ascii=False).encode()

    def test_a_folder_that_is_an_adapter_itself_is_a_wrong_setting(
        self, write_adapter: Write, base: BaseShape, tmp_path: Path
    ) -> None:
        folder = write_adapter("safety")
        with pytest.raises(SettingsError, match="is itself an adapter") as caught:
            registry(folder, base)
        assert f"its parent {tmp_path}" in caught.value.message

    def test_a_link_to_a_snapshot_in_a_hub_cache_is_served(
        self, write_adapter: Write, base: BaseShape, tmp_path: Path
    ) -> None:
        repository = tmp_path / ".hub" / "models--ibm--safety"
        (repository / "blobs").mkdir(parents=True)
        (repository / "snapshots").mkdir()
        snapshot = write_adapter("0abc").rename(repository / "snapshots" / "0abc")
        for path in list(snapshot.iterdir()):
            path.rename(repository / "blobs" / path.name)
            path.symlink_to(f"../../blobs/{path.name}")
        (tmp_path / "safety").symlink_to(snapshot)
        assert served(registry(tmp_path, base)) == ["safety"]

    def test_a_missing_folder_is_a_wrong_setting(self, base: BaseShape, tmp_path: Path) -> None:
        with pytest.raises(SettingsError, match="nowhere"):
            registry(tmp_path / "nowhere", base)


class TestChanges:
    async def test_a_folder_counts_once_two_readings_found_it_the_same(
        self, write_adapter: Write, base: BaseShape, tmp_path: Path
    ) -> None:
        found = registry(tmp_path, base)
        write_adapter("safety")
        await found.read()
        assert (served(found), refused(found)) == ([], {})
        await found.read()
        assert served(found) == ["safety"]

    async def test_a_copy_in_progress_is_neither_served_nor_refused(
        self, write_adapter: Write, base: BaseShape, tmp_path: Path
    ) -> None:
        found = registry(tmp_path, base)
        whole = (write_adapter("safety") / "adapter_model.safetensors").read_bytes()
        for size in range(1, len(whole), len(whole) // 5):
            (tmp_path / "safety" / "adapter_model.safetensors").write_bytes(whole[:size])
            await found.read()
            assert (served(found), refused(found)) == ([], {})
        (tmp_path / "safety" / "adapter_model.safetensors").write_bytes(whole)
        await settled(found)
        assert served(found) == ["safety"]

    async def test_a_temporary_file_that_grows_beside_the_others_is_a_copy_in_progress(
        self, write_adapter: Write, base: BaseShape, tmp_path: Path
    ) -> None:
        write_adapter("safety")
        found = registry(tmp_path, base)
        before = found.resolve("safety")
        write_adapter("safety", lora_alpha=16)
        for size in range(3):
            (tmp_path / "safety" / ".adapter_model.safetensors.XyZ").write_bytes(b"x" * size)
            await found.read()
            assert found.resolve("safety") is before

    async def test_a_served_adapter_is_served_as_it_was_while_a_copy_over_it_pauses(
        self, write_adapter: Write, base: BaseShape, tmp_path: Path
    ) -> None:
        found = registry(tmp_path, base)
        write_adapter("safety")
        await settled(found)
        before = found.resolve("safety")
        weights = tmp_path / "safety" / "adapter_model.safetensors"
        write_adapter("safety", weight=2.0)
        whole = weights.read_bytes()
        weights.write_bytes(whole[:-8])
        await settled(found, BAD_READINGS - 1)
        assert found.resolve("safety") is before
        weights.write_bytes(whole)
        await settled(found)
        assert found.resolve("safety").digest != before.digest
        assert refused(found) == {}

    async def test_one_that_stays_bad_is_refused_and_served_again_when_it_is_mended(
        self, write_adapter: Write, base: BaseShape, tmp_path: Path
    ) -> None:
        write_adapter("safety")
        found = registry(tmp_path, base)
        (tmp_path / "safety" / "adapter_model.safetensors").write_bytes(b"{}")
        await settled(found, BAD_READINGS)
        assert served(found) == []
        assert "not a safetensors file" in refused(found)["safety"]
        write_adapter("safety")
        await settled(found)
        assert (served(found), refused(found)) == (["safety"], {})

    async def test_weights_swapped_for_a_pickle_are_refused(
        self, write_adapter: Write, base: BaseShape, tmp_path: Path
    ) -> None:
        weights = write_adapter("safety") / "adapter_model.safetensors"
        found = registry(tmp_path, base)
        weights.rename(weights.with_name("adapter_model.bin"))
        await settled(found, BAD_READINGS)
        assert "is a pickle, which is never loaded" in refused(found)["safety"]

    async def test_weights_swapped_for_a_link_out_of_the_folder_are_refused(
        self, write_adapter: Write, base: BaseShape, tmp_path: Path
    ) -> None:
        weights = write_adapter("safety") / "adapter_model.safetensors"
        found = registry(tmp_path, base)
        shutil.move(weights, tmp_path / "elsewhere.safetensors")
        weights.symlink_to(tmp_path / "elsewhere.safetensors")
        await settled(found, BAD_READINGS)
        assert "is a link out of the adapter's folder" in refused(found)["safety"]

    async def test_a_folder_renamed_away_and_replaced_at_once_is_never_unknown(
        self, write_adapter: Write, base: BaseShape, tmp_path: Path
    ) -> None:
        write_adapter("safety")
        found = registry(tmp_path, base)
        (tmp_path / "safety").rename(tmp_path / ".old")
        await found.read()
        assert served(found) == ["safety"]
        write_adapter(".new", weight=2.0).rename(tmp_path / "safety")
        await settled(found)
        assert found.resolve("safety").digest == read_adapter(tmp_path / "safety", base=base, max_rank=8).digest

    async def test_a_change_while_it_is_read_is_not_taken_half(
        self, write_adapter: Write, base: BaseShape, tmp_path: Path
    ) -> None:
        write_adapter("safety")
        changes = [2.0]

        class Reader(AdapterReader):
            def read(self, name: str, folder: Path) -> AdapterVersion:
                version = super().read(name, folder)
                if changes:
                    write_adapter("safety", weight=changes.pop())
                return version

        found = FolderRegistry(tmp_path, Reader(base=base, max_rank=8))
        assert served(found) == [], "even at the start"
        await settled(found)
        assert found.resolve("safety").digest == read_adapter(tmp_path / "safety", base=base, max_rank=8).digest

    async def test_room_that_becomes_free_goes_to_the_next_adapter(
        self, write_adapter: Write, base: BaseShape, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(folder, "MAX_ADAPTERS", 1)
        write_adapter("b")
        found = registry(tmp_path, base)
        write_adapter("a")
        await settled(found)
        assert served(found) == ["b"], "one that is served keeps its place"
        assert "1 adapters are served already" in refused(found)["a"]
        shutil.rmtree(tmp_path / "b")
        await settled(found)
        assert (served(found), refused(found)) == (["a"], {})

    async def test_nothing_is_read_while_nothing_changes(
        self, write_adapter: Write, base: BaseShape, tmp_path: Path
    ) -> None:
        write_adapter("safety")
        write_adapter("bad", r=99)
        reads: list[str] = []

        class Reader(AdapterReader):
            def read(self, name: str, folder: Path) -> AdapterVersion:
                reads.append(name)
                return super().read(name, folder)

        found = FolderRegistry(tmp_path, Reader(base=base, max_rank=8))
        assert sorted(reads) == ["bad", "safety"]
        await settled(found, 10)
        assert len(reads) == 2
        os.utime(tmp_path / "safety" / "adapter_config.json")
        await settled(found, 10)
        assert reads[2:] == ["safety"]

    async def test_what_is_served_stays_while_the_folder_cannot_be_read(
        self, write_adapter: Write, base: BaseShape, tmp_path: Path
    ) -> None:
        root = tmp_path / "root"
        root.mkdir()
        write_adapter("safety").rename(root / "safety")
        found = registry(root, base)
        root.rename(tmp_path / "away")
        for _ in range(5):
            with pytest.raises(SettingsError, match="cannot be read"):
                await found.read()
        assert served(found) == ["safety"]
        (tmp_path / "away").rename(root)
        await settled(found)
        assert served(found) == ["safety"]

    async def test_it_follows_the_folder_while_it_runs(
        self, write_adapter: Write, base: BaseShape, tmp_path: Path
    ) -> None:
        found = FolderRegistry(tmp_path, AdapterReader(base=base, max_rank=8), read_every_s=0.01)
        changes = found.watch()
        await anext(changes)
        task = asyncio.create_task(found.run())
        async with asyncio.timeout(60):
            write_adapter("safety")
            assert [version.name for version in (await anext(changes)).added] == ["safety"]
            shutil.rmtree(tmp_path / "safety")
            assert [version.name for version in (await anext(changes)).removed] == ["safety"]
        task.cancel()


class TestLimits:
    LIMITS = AdapterLimits(frozenset({"q_proj", "v_proj"}), 4)

    async def test_a_later_adapter_that_the_engines_have_no_room_for_is_refused_with_what_to_do(
        self, write_adapter: Write, base: BaseShape, tmp_path: Path
    ) -> None:
        found = registry(tmp_path, base, limits=self.LIMITS)
        write_adapter("fits", targets=("q_proj",))
        write_adapter("wider")
        write_adapter("higher", targets=("q_proj",), rank=8)
        await settled(found)
        assert served(found) == ["fits"]
        assert "it changes down_proj" in refused(found)["wider"]
        assert "adapters of q_proj, v_proj; set reserve_modules, or restart" in refused(found)["wider"]
        assert "its rank is 8, but the engines were started for adapters of rank 4" in refused(found)["higher"]

    def test_limits_have_room_for_what_is_served_and_what_is_reserved(
        self, write_adapter: Write, base: BaseShape, tmp_path: Path
    ) -> None:
        write_adapter("safety", rank=2)
        versions = registry(tmp_path, base).all()
        assert AdapterLimits.around(versions, ["k_proj"], 1) == AdapterLimits(
            frozenset({"q_proj", "down_proj", "k_proj"}), 8
        )
        assert AdapterLimits.around(versions, [], 12).rank == 16


class TestVersionsThatAreNotServed:
    @pytest.fixture
    def store(self, tmp_path: Path) -> AdapterStore:
        return AdapterStore(tmp_path / ".snapshots")

    async def test_files_of_a_version_stay_when_its_folder_changes(
        self, write_adapter: Write, base: BaseShape, tmp_path: Path, store: AdapterStore
    ) -> None:
        write_adapter("safety")
        found = registry(tmp_path, base, store=store)
        first = found.resolve("safety")
        write_adapter("safety", weight=2.0)
        await settled(found)
        second = found.resolve("safety")
        shutil.rmtree(tmp_path / "safety")
        await settled(found)
        for version in (first, second):
            assert read_adapter(version.path, base=base, max_rank=8).digest == version.digest == version.path.name

    async def test_a_version_that_was_not_noticed_yet_is_found_in_its_folder(
        self, write_adapter: Write, base: BaseShape, tmp_path: Path
    ) -> None:
        here, ahead = registry(tmp_path, base), registry(tmp_path, base)
        write_adapter("safety")
        await settled(ahead)
        version = ahead.resolve("safety")
        assert await here.find(version.ref) == version
        assert served(here) == [], "found is not served"

    async def test_a_version_that_was_never_noticed_here_is_found_in_the_store(
        self, write_adapter: Write, base: BaseShape, tmp_path: Path, store: AdapterStore
    ) -> None:
        here, ahead = registry(tmp_path, base, store=store), registry(tmp_path, base, store=store)
        write_adapter("safety")
        await settled(ahead)
        version = ahead.resolve("safety")
        write_adapter("safety", weight=2.0)
        assert await here.find(version.ref) == version

    async def test_a_version_that_cannot_be_had_is_looked_for_once_in_a_while(
        self, write_adapter: Write, base: BaseShape, tmp_path: Path
    ) -> None:
        now = [0.0]
        found = FolderRegistry(tmp_path, AdapterReader(base=base, max_rank=8), clock=lambda: now[0])
        ahead = registry(tmp_path, base)
        write_adapter("safety")
        await settled(ahead)
        ref = ahead.resolve("safety").ref
        shutil.move(tmp_path / "safety", tmp_path / ".away")
        assert await found.find(ref) is None
        shutil.move(tmp_path / ".away", tmp_path / "safety")
        assert await found.find(ref) is None, "looked for a moment ago"
        now[0] += folder.READ_EVERY_S
        assert await found.find(ref) is not None

    async def test_two_versions_with_one_number_are_not_served_beside_each_other(
        self, write_adapter: Write, base: BaseShape, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(AdapterVersion, "engine_id", property(lambda ref: 7))
        write_adapter("a")
        found = registry(tmp_path, base)
        write_adapter("b")
        await settled(found)
        assert served(found) == ["a"]
        assert refused(found) == {"b": "its number in the engines is that of 'a'; rename its folder"}
        other = AdapterRef("b", "lora", read_adapter(tmp_path / "b", base=base, max_rank=8).digest)
        assert await found.find(other) is None
        shutil.rmtree(tmp_path / "a")
        await settled(found)
        assert "that of 'a'" in refused(found)["b"], "requests may still run with it"

    async def test_those_kept_are_bounded_by_number_and_time(
        self, write_adapter: Write, base: BaseShape, tmp_path: Path
    ) -> None:
        now = [0.0]
        found = FolderRegistry(tmp_path, AdapterReader(base=base, max_rank=8), clock=lambda: now[0])
        seen = []
        for weight in range(MAX_RETIRED + 2):
            write_adapter("safety", weight=1.0 + weight)
            await settled(found)
            seen.append(found.resolve("safety").ref)
        assert await found.find(seen[0]) is None
        assert await found.find(seen[1]) is not None
        now[0] += RETIRED_S
        assert await found.find(seen[2]) is not None, "just as long ago"
        now[0] += RETIRED_S - 1
        assert await found.find(seen[2]) is not None, "used since"
        assert await found.find(seen[3]) is None
