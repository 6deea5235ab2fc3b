"""A fetch: whole or not at all, within its limits, going on where it ended."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from aloraserve.adapters.sources import FetchLimits, SourceFetcher, SourcePolicy
from aloraserve.adapters.sources import fetch as module
from aloraserve.adapters.sources.base import SourceChangedError, SourceFile, SourceInterruptedError
from aloraserve.errors import AdapterSourceError

WEIGHTS = bytes(range(256)) * 1000
CONTENT = {"adapter_config.json": b"{}", "adapter_model.safetensors": WEIGHTS}
CHUNK = 50_000


@dataclass
class FaultySource:
    """A source that ends early, changes, lies or is not there, as a test says.

    Args:
        content: of its files.
        faults: called with each chunk's place in all that were sent.
        sizes: that it says, where they are other ones.
        sha256: that it says of the weights.
    """

    content: dict[str, bytes] = field(default_factory=lambda: dict(CONTENT))
    faults: Callable[[int], None] = lambda _: None
    sizes: dict[str, int] = field(default_factory=dict)
    sha256: str | None = None
    sent: int = 0
    offsets: list[int] = field(default_factory=list)
    is_closed: bool = False

    def files(self) -> Sequence[SourceFile]:
        return [
            SourceFile(name, self.sizes.get(name, len(data)), str(hash(data)), self.sha256 if len(data) > 9 else None)
            for name, data in self.content.items()
        ]

    def read(self, file: SourceFile, offset: int) -> Iterator[bytes]:
        self.offsets.append(offset)
        data = self.content[file.name]
        if file.version != str(hash(data)):
            raise SourceChangedError
        for start in range(offset, len(data), CHUNK):
            self.sent += 1
            self.faults(self.sent)
            yield data[start : start + CHUNK]

    def close(self) -> None:
        self.is_closed = True


class Fetcher:
    """A fetcher over one source; its sleeps move its clock."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.now = 0.0
        self.fetcher = SourceFetcher(
            SourcePolicy(any_folder=True), self._stage, clock=lambda: self.now, sleep=self._sleep
        )
        self._monkeypatch = monkeypatch

    def _stage(self) -> Path:
        folder = self.root / f"staged-{len(os.listdir(self.root))}"
        folder.mkdir()
        return folder

    def _sleep(self, seconds: float) -> None:
        self.now += seconds

    def fetch(self, source: FaultySource, limits: FetchLimits | None = None, **options: object) -> Path:
        self._monkeypatch.setattr(module, "FolderSource", lambda *_: source)
        fetcher = replace(self.fetcher, limits=limits or self.fetcher.limits)
        try:
            return fetcher.fetch(str(self.root), **options)  # type: ignore[arg-type]
        finally:
            assert source.is_closed

    @property
    def left(self) -> list[str]:
        return os.listdir(self.root)


@pytest.fixture
def fetcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fetcher:
    return Fetcher(tmp_path, monkeypatch)


def content_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_files_come_whole_and_progress_is_told(fetcher: Fetcher) -> None:
    told: list[tuple[int, int]] = []
    folder = fetcher.fetch(FaultySource(), progress=lambda done, total: told.append((done, total)))
    assert content_of(folder) == CONTENT
    total = len(WEIGHTS) + 2
    assert told[0] == (0, total)
    assert told[-1] == (total, total)
    assert [done for done, _ in told] == sorted({done for done, _ in told})


def test_a_read_that_ends_early_goes_on_where_it_ended(fetcher: Fetcher) -> None:
    def cut(sent: int) -> None:
        if sent in (3, 5):
            raise SourceInterruptedError("connection reset")

    source = FaultySource(faults=cut)
    assert content_of(fetcher.fetch(source)) == CONTENT
    assert source.offsets == [0, 0, CHUNK, 2 * CHUNK]


def test_one_that_is_cut_short_without_an_error_goes_on_too(fetcher: Fetcher) -> None:
    class Short(FaultySource):
        def read(self, file: SourceFile, offset: int) -> Iterator[bytes]:
            yield from list(super().read(file, offset))[:1]

    assert content_of(fetcher.fetch(Short(), FetchLimits(attempts=10))) == CONTENT


def test_a_source_that_is_gone_halfway_leaves_nothing(fetcher: Fetcher) -> None:
    def gone(sent: int) -> None:
        if sent > 3:
            raise SourceInterruptedError("connection reset")

    with pytest.raises(AdapterSourceError, match=r"adapter_model.safetensors could not be read to its end: connection"):
        fetcher.fetch(FaultySource(faults=gone))
    assert fetcher.left == []


def test_a_source_that_changes_meanwhile_is_fetched_again(fetcher: Fetcher) -> None:
    source = FaultySource()
    other = WEIGHTS[::-1]

    def change(sent: int) -> None:
        if sent == 3:
            source.content["adapter_model.safetensors"] = other
            raise SourceInterruptedError("replaced")

    source.faults = change
    assert content_of(fetcher.fetch(source)) == CONTENT | {"adapter_model.safetensors": other}
    assert len(fetcher.left) == 1


def test_one_that_never_settles_is_refused(fetcher: Fetcher) -> None:
    def always(sent: int) -> None:
        raise SourceChangedError

    with pytest.raises(AdapterSourceError, match="changed 4 times"):
        fetcher.fetch(FaultySource(faults=always))
    assert fetcher.left == []


@pytest.mark.parametrize("missing", CONTENT)
def test_a_missing_file_is_named(fetcher: Fetcher, missing: str) -> None:
    source = FaultySource({name: data for name, data in CONTENT.items() if name != missing})
    with pytest.raises(AdapterSourceError, match=f"{missing} is missing"):
        fetcher.fetch(source)
    assert fetcher.left == []


@pytest.mark.parametrize(
    ("sizes", "limits", "reason"),
    [
        ({"adapter_model.safetensors": 3 * 1024**3}, FetchLimits(), "has 3221225472 bytes; 2147483648 at most"),
        ({"adapter_config.json": 2**21}, FetchLimits(), "adapter_config.json has 2097152 bytes"),
        ({}, FetchLimits(max_bytes=1000), "the adapter has 256002 bytes; 1000 at most"),
    ],
)
def test_what_is_too_long_is_refused_before_a_byte_is_read(
    fetcher: Fetcher, sizes: dict[str, int], limits: FetchLimits, reason: str
) -> None:
    source = FaultySource(sizes=sizes)
    with pytest.raises(AdapterSourceError, match=reason):
        fetcher.fetch(source, limits)
    assert (source.sent, fetcher.left) == (0, [])


def test_a_source_that_sends_more_than_it_said_is_stopped(fetcher: Fetcher) -> None:
    with pytest.raises(AdapterSourceError, match="longer than the 70000 bytes"):
        fetcher.fetch(FaultySource(sizes={"adapter_model.safetensors": 70_000}))
    assert fetcher.left == []


def test_a_slow_source_is_given_up(fetcher: Fetcher) -> None:
    def slow(_: int) -> None:
        fetcher.now += 400

    with pytest.raises(AdapterSourceError, match="not fetched within 1800 s"):
        fetcher.fetch(FaultySource(faults=slow))
    assert fetcher.left == []


@pytest.mark.parametrize("who", ["source", "caller"])
def test_another_digest_is_refused(fetcher: Fetcher, who: str) -> None:
    wrong, right = "0" * 64, hashlib.sha256(WEIGHTS).hexdigest()
    source = FaultySource(sha256=wrong if who == "source" else right)
    with pytest.raises(AdapterSourceError, match=f"has the SHA-256 {right}, not {wrong}"):
        fetcher.fetch(source, weights_sha256=wrong if who == "caller" else right)
    assert fetcher.left == []


def test_the_right_digest_passes_in_capitals_too(fetcher: Fetcher) -> None:
    assert fetcher.fetch(FaultySource(), weights_sha256=hashlib.sha256(WEIGHTS).hexdigest().upper()).is_dir()


def test_a_caller_can_end_a_fetch(fetcher: Fetcher) -> None:
    def stop(done: int, _: int) -> None:
        if done > CHUNK:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetcher.fetch(FaultySource(), progress=stop)
    assert fetcher.left == []
