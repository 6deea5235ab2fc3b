"""From a spec to data that is ready to train on, or to every reason why it is not. Trains nothing, writes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from pathlib import Path

from aloraserve.training import ProblemList, TrainingRow, TrainingSpec, read_rows
from aloraserve.training.completions import CompletionCheck
from aloraserve.training.leakage import find_leaks
from aloraserve.training.row_forms import RowError
from aloraserve.training.rows import RowFile
from aloraserve.training.splits import SPLITS, SplitName, Splits, split_rows
from aloraserve_services.training.base_model import BaseTokens
from aloraserve_services.training.document_cut import cut_documents
from aloraserve_services.training.examples import ExampleBuilder, TrainingExample
from aloraserve_services.training.placement import placement_notes, prove_placement
from aloraserve_services.training.prepared import PreparedData, PreparedSplit


def prepare(spec: TrainingSpec, model_path: Path) -> PreparedData:
    """Return a spec's data as examples. Deterministic; not for use inside an event loop.

    Args:
        spec: of the training.
        model_path: folder of the base model.

    Raises:
        TrainingError: the data, the invocation or the model's tokenizer cannot be used; has every problem that was
            found, with file and line.
    """
    problems = ProblemList()
    files = {name: read_rows(spec.file(name), name, problems) for name in dict.fromkeys(spec.data.files)}
    base = BaseTokens.read(model_path)
    builder = ExampleBuilder(spec, base.tokenizer, end_token=base.end_token, context=base.context)
    proof = prove_placement(spec, builder.version, base)
    limit = _limit(spec, base.context, problems)
    splits = _split(spec, files)
    if not problems.count:
        _check_split(spec, splits, problems)
    prepared = asyncio.run(_prepared(splits, _Preparation(spec, builder, limit, problems)))
    if not problems.count:
        _check_left(spec, prepared, problems)
    problems.raise_any()
    assert proof.mode is not None
    return PreparedData(
        splits=prepared,
        forms={name: file.form.value for name, file in files.items()},
        invocation_ids=builder.version.invocation_ids,
        mode=proof.mode,
        shown=proof.marked,
        end_token=base.end_token,
        notes=tuple(placement_notes(spec, builder.version, proof.mode, base.tokenizer)),
    )


def _limit(spec: TrainingSpec, context: int, problems: ProblemList) -> int:
    asked = spec.training.max_tokens
    if asked is not None and asked > context:
        line = spec.line("training", "max_tokens")
        problems.add(spec.path.name, line, f"has training.max_tokens {asked}", f"the model's context, {context}")
    return min(asked or context, context)


def _split(spec: TrainingSpec, files: Mapping[str, RowFile]) -> Splits:
    data = spec.data
    if data.rows is not None:
        rows = [row for name in dict.fromkeys(data.rows) for row in files[name].rows]
        parts = data.fractions
        return split_rows(rows, validation=parts.validation, test=parts.test, seed=data.split_seed)
    named = {"train": data.train, "validation": data.validation, "test": data.test}
    return {
        split: tuple(row for name in dict.fromkeys(named[split] or ()) for row in files[name].rows) for split in SPLITS
    }


def _check_split(spec: TrainingSpec, splits: Splits, problems: ProblemList) -> None:
    line = spec.line("data")
    for name in _wanted(spec):
        if not splits[name]:
            count = len({row.conversation for rows in splits.values() for row in rows})
            found = f"leaves the split {name!r} empty: {count} conversations are divided"
            problems.add(spec.path.name, line, found, "more conversations, or another fraction")
    if spec.data.duplicates == "refuse":
        for leak in find_leaks(splits):
            accepted = "one 'conversation' for both, another file, or data.duplicates: allow"
            problems.add(leak.later.file, leak.later.line, leak.found, accepted)


def _wanted(spec: TrainingSpec) -> tuple[SplitName, ...]:
    has_test = spec.data.fractions.test > 0 if spec.data.rows is not None else spec.data.test is not None
    return SPLITS if has_test else SPLITS[:2]


class _Preparation:
    """Makes examples of rows, over-long ones as the spec says; notes what is wrong."""

    def __init__(self, spec: TrainingSpec, builder: ExampleBuilder, limit: int, problems: ProblemList) -> None:
        self._way = spec.training.over_long
        self._answers = CompletionCheck(spec.intrinsic_spec())
        self._builder = builder
        self._limit = limit
        self._problems = problems

    async def split(self, rows: Iterable[TrainingRow]) -> PreparedSplit:
        """Return a split's rows and examples."""
        used: list[tuple[TrainingRow, TrainingExample]] = []
        skipped: list[TrainingRow] = []
        cut: list[TrainingRow] = []
        for row in rows:
            try:
                self._answers.check(row.completion)
                example = await self._builder.build(row)
                if len(example.token_ids) <= self._limit:
                    used.append((row, example))
                elif self._way == "skip":
                    skipped.append(row)
                else:
                    used.append(await self._shortened(row, example))
                    cut.append(row)
            except RowError as error:
                self._problems.add(row.file, row.line, error.found, error.accepted)
        rows_used, examples = tuple(row for row, _ in used), tuple(example for _, example in used)
        return PreparedSplit(rows_used, examples, tuple(skipped), tuple(cut))

    async def _shortened(self, row: TrainingRow, example: TrainingExample) -> tuple[TrainingRow, TrainingExample]:
        made = await cut_documents(row, self._builder, self._limit) if self._way == "cut-documents" else None
        if made is not None:
            return made
        found = f"has {len(example.token_ids)} tokens; at most {self._limit} fit"
        if self._way == "refuse":
            raise RowError(found, "a shorter conversation, or training.over_long: skip or cut-documents")
        raise RowError(f"{found}, even without its documents", "a shorter conversation, or training.over_long: skip")


async def _prepared(splits: Splits, preparation: _Preparation) -> dict[SplitName, PreparedSplit]:
    return {name: await preparation.split(rows) for name, rows in splits.items()}


def _check_left(spec: TrainingSpec, prepared: Mapping[SplitName, PreparedSplit], problems: ProblemList) -> None:
    """Note the splits of which every row was skipped."""
    for name in _wanted(spec):
        if not prepared[name].rows:
            found = f"skips all {len(prepared[name].skipped)} rows of the split {name!r}, which are over-long"
            problems.add(spec.path.name, spec.line("training"), found)
