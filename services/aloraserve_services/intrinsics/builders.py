"""The intrinsics by name, each with its builder; their rows as files beside their spec."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Protocol

from aloraserve.errors import SettingsError, StartError
from aloraserve_services.intrinsics.answerability import AnswerabilityBuilder, mtrag_rows
from aloraserve_services.intrinsics.hallucination import HallucinationBuilder
from aloraserve_services.intrinsics.query_rewrite import QueryRewriteBuilder
from aloraserve_services.intrinsics.row import BuiltRow, Part
from aloraserve_services.intrinsics.safety import SENTENCES, SafetyBuilder, rows_by_hand
from aloraserve_services.intrinsics.uncertainty import QUESTIONS, Sample, Sampler, UncertaintyBuilder, packed, sampled

ROWS: Mapping[Part, int] = {Part.TRAIN: 1500, Part.VALIDATION: 100, Part.TEST: 250}
"""Rows that are built if nobody says; a twelfth and a sixth of the training rows otherwise."""
MAX_ROWS = 100_000
IO_YAML = "io.yaml"
BY_HAND = "by_hand.jsonl"
"""The rows of a second test, where an intrinsic has one."""


class RowBuilder(Protocol):
    """A source of rows for one part."""

    def rows(self, count: int) -> Iterator[BuiltRow]:
        """Yield so many rows."""


@dataclass(frozen=True, slots=True)
class Intrinsic:
    """An intrinsic that rows can be built for.

    Args:
        name: of its adapter.
        builder: makes its builder, of a seed and a part.
        counts: of rows if nobody says.
        reads: reads rows by part from a file of open data, None where there is none.
        by_hand: makes rows of a second test, which nobody trains on; None where there is none.
    """

    name: str
    builder: Callable[[int, Part], RowBuilder]
    counts: Mapping[Part, int]
    reads: Callable[[Path], dict[Part, list[BuiltRow]]] | None = None
    by_hand: Callable[[], list[BuiltRow]] | None = None

    @property
    def spec(self) -> str:
        """Its training spec, as YAML."""
        return _packaged(f"{self.name}.yaml") or ""

    @property
    def io_yaml(self) -> str | None:
        """The ``io.yaml`` that its spec names, None if it names none."""
        return _packaged(f"{self.name}.io.yaml")


def _sentence(seed: int, part: Part) -> SafetyBuilder:
    return SafetyBuilder(seed, part, SENTENCES)


INTRINSICS = {
    intrinsic.name: intrinsic
    for intrinsic in (
        Intrinsic("safety", SafetyBuilder, ROWS, by_hand=rows_by_hand),
        Intrinsic("safety-sentence", _sentence, ROWS),
        Intrinsic("hallucination", HallucinationBuilder, {Part.TRAIN: 900, Part.VALIDATION: 60, Part.TEST: 250}),
        Intrinsic("uncertainty", UncertaintyBuilder, QUESTIONS),
        Intrinsic("answerability", AnswerabilityBuilder, {**ROWS, Part.TRAIN: 600, Part.VALIDATION: 60}, mtrag_rows),
        Intrinsic("query-rewrite", QueryRewriteBuilder, ROWS),
    )
}


def build_rows(
    intrinsic: Intrinsic,
    *,
    seed: int = 0,
    train_rows: int | None = None,
    data: Path | None = None,
    sampler: Sampler | None = None,
    samples_file: Path | None = None,
) -> dict[Part, list[BuiltRow]]:
    """Return an intrinsic's rows by part.

    Args:
        intrinsic: to build for.
        seed: equal seeds give equal rows.
        train_rows: how many to train on; validation and test get fewer in proportion. Not for ``data``.
        data: a file of open data to read in place of generating.
        sampler: the base model, for uncertainty; the package's own samples if it is not given.
        samples_file: where the sampler's samples are written, as the package has them.

    Raises:
        SettingsError: the intrinsic has no such source, or there are not so many rows.
        StartError: the file of samples cannot be written.
    """
    if data is not None:
        if intrinsic.reads is None:
            raise SettingsError(f"--data is not accepted for {intrinsic.name!r}, whose rows are generated")
        return intrinsic.reads(data)
    if sampler is not None and intrinsic.name != "uncertainty":
        raise SettingsError(f"--base is accepted for 'uncertainty' alone, which samples it, not for {intrinsic.name!r}")
    if samples_file is not None and sampler is None:
        raise SettingsError("--samples is accepted with --base alone: it is where its answers are written")
    counts = _counts(intrinsic.counts, train_rows)
    if sampler is None:
        return {part: list(intrinsic.builder(seed, part).rows(counts[part])) for part in Part}
    samples = {part: sampled(seed, part, counts[part], sampler) for part in Part}
    if samples_file is not None:
        _write_samples(samples_file, [each for found in samples.values() for each in found])
    return {part: list(UncertaintyBuilder(seed, part, samples[part]).rows(counts[part])) for part in Part}


def write_rows(intrinsic: Intrinsic, rows: Mapping[Part, Iterable[BuiltRow]], folder: Path) -> None:
    """Write a file per part, a second test, the spec and its ``io.yaml`` into a folder that is empty or not there.

    Raises:
        StartError: the folder has something in it, or cannot be written.
    """
    texts = {f"{part}.jsonl": _lines(made) for part, made in rows.items()}
    if intrinsic.by_hand is not None:
        texts[BY_HAND] = _lines(intrinsic.by_hand())
    texts[f"{intrinsic.name}.yaml"] = intrinsic.spec
    if (io_yaml := intrinsic.io_yaml) is not None:
        texts[IO_YAML] = io_yaml
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise StartError(f"--out {str(folder)!r} is not empty; name a folder that is not there yet")
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise StartError(f"rows cannot be written to {str(folder)!r}: {error.strerror}") from error


def _lines(rows: Iterable[BuiltRow]) -> str:
    return "".join(f"{row.line()}\n" for row in rows)


def _counts(usual: Mapping[Part, int], train_rows: int | None) -> Mapping[Part, int]:
    if train_rows is None:
        return usual
    if not 12 <= train_rows <= MAX_ROWS:
        raise SettingsError(f"--rows {train_rows} is not accepted; 12 to {MAX_ROWS} are")
    return {Part.TRAIN: train_rows, Part.VALIDATION: train_rows // 12, Part.TEST: train_rows // 6}


def _write_samples(path: Path, samples: Iterable[Sample]) -> None:
    try:
        path.write_bytes(packed(samples))
    except OSError as error:
        raise StartError(f"samples cannot be written to {str(path)!r}: {error.strerror}") from error


def _packaged(name: str) -> str | None:
    path = files("aloraserve_services.intrinsics").joinpath("specs", name)
    return path.read_text("utf-8") if path.is_file() else None
