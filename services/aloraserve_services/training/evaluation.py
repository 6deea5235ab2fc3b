"""Evaluates an intrinsic: every arm answers the same rows, through PEFT and through a running platform."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from aloraserve.adapters import AdapterKind, AdapterReader, AdapterVersion, BaseShape
from aloraserve.adapters.intrinsics import IntrinsicSpec
from aloraserve.errors import InvalidAdapterError, TrainingError
from aloraserve.training import TrainingRow, TrainingSpec
from aloraserve.training.agreement import agreement
from aloraserve.training.results import ArmResult, EvaluationReport, Role
from aloraserve.training.scored_form import ScoredForm
from aloraserve.training.scoring import PRIMARY, ArmAnswers, compared, scored
from aloraserve.training.spec import MAX_RANK
from aloraserve.training.splits import SplitName
from aloraserve_services.models.hardware import Dtype
from aloraserve_services.training.evaluation_facts import facts_of
from aloraserve_services.training.progress import TrainingProgress
from aloraserve_services.training.reference_arms import (
    adapter_arm,
    base_arms,
    constant_arm,
    instruction_of,
    reference_answers,
)
from aloraserve_services.training.run import PreparedTraining
from aloraserve_services.training.served_answers import PlatformTarget, ServedAnswers

_NAMES: Mapping[Role, str] = {"alora": "aLoRA", "lora": "LoRA", "compared": "compared aLoRA"}


@dataclass(frozen=True, slots=True)
class RowChoice:
    """The rows that are asked about.

    Args:
        split: of the data.
        limit: rows at most, chosen by the seed; None for all.
        seed: of the choice, and of the intervals.
    """

    split: SplitName = "test"
    limit: int | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True)
class EvaluationRequest:
    """An evaluation that is asked for.

    Args:
        prepared: spec, data and base model; the data is what is asked about, the dtype that of PEFT's computation.
        adapter: folder of the trained adapter.
        twin: folder of a plain LoRA trained on the same data, None without.
        compare: folder of another aLoRA, such as one with an invocation of one token, None without.
        choice: of the rows.
        told: what the base model is told; None to make it of the spec.
        platform: that serves the adapters too, None without.
    """

    prepared: PreparedTraining
    adapter: Path
    twin: Path | None = None
    compare: Path | None = None
    choice: RowChoice = RowChoice()
    told: str | None = None
    platform: PlatformTarget | None = None

    @property
    def spec(self) -> TrainingSpec:
        """The training's spec."""
        return self.prepared.spec

    @property
    def coarser_dtype(self) -> Dtype:
        """The coarser one of PEFT's dtype and the platform's, as far as that is known."""
        others = () if self.platform is None else (self.platform.dtype,)
        return "bfloat16" if "bfloat16" in (self.prepared.dtype, *others) else "float32"

    @property
    def model_path(self) -> Path:
        """Folder of the base model."""
        return self.prepared.base_path


def evaluate(request: EvaluationRequest, progress: TrainingProgress) -> EvaluationReport:
    """Return how well each arm does.

    Args:
        request: what to evaluate.
        progress: told of each step.

    Raises:
        TrainingError: the data, an adapter or the platform cannot be used; names what, and what is accepted.
        StartError: the extra ``train`` is not installed.
    """
    adapters = read_adapters(request)
    spec = adapters[request.spec.kind].intrinsic or IntrinsicSpec()
    form = ScoredForm.of(spec)
    rows = chosen_rows(request.prepared, request.choice)
    arms = base_arms(spec, request.told or instruction_of(request.spec, spec, form))
    arms += [adapter_arm(_NAMES[role], role, role, version) for role, version in adapters.items()]
    # First, so that a platform that cannot be asked is known before the long part.
    served = [] if request.platform is None else _served(request.platform, adapters, rows, form, progress)
    models = {str(role): version for role, version in adapters.items()}
    answers = [
        constant_arm(form, rows, request.prepared.data.splits["train"].rows),
        *reference_answers(request.prepared, models, arms, rows, form, progress),
        *served,
    ]
    return _report(request, form, [scored(form, arm, seed=request.choice.seed) for arm in answers])


def read_adapters(request: EvaluationRequest) -> dict[Role, AdapterVersion]:
    """Return the adapters by role, checked against base model and spec.

    Raises:
        TrainingError: one is of another base model or kind, or answers in another form.
    """
    kind = request.spec.kind
    wanted: list[tuple[Role, Path | None, AdapterKind, str]] = [
        (kind, request.adapter, kind, "--adapter"),
        ("lora", request.twin, "lora", "--twin"),
        ("compared", request.compare, "alora", "--compare"),
    ]
    if kind == "lora" and request.twin is not None:
        raise TrainingError(
            f"--twin is given, and {request.spec.path.name} has the kind lora; accepted: a spec of an aLoRA"
        )
    reader = AdapterReader(base=BaseShape.read(request.model_path), max_rank=MAX_RANK)
    form = ScoredForm.of(request.spec.intrinsic_spec())
    found: dict[Role, AdapterVersion] = {}
    for role, folder, accepted, option in wanted:
        if folder is not None:
            found[role] = read_adapter(reader, folder, accepted, form, option)
    return found


def read_adapter(
    reader: AdapterReader, folder: Path, kind: AdapterKind, form: ScoredForm, option: str
) -> AdapterVersion:
    """Return an adapter that fits.

    Args:
        reader: of adapters for the base model.
        folder: of the adapter.
        kind: that it must have.
        form: that its answers must have.
        option: that named it, for errors.

    Raises:
        TrainingError: it does not fit, or cannot be served; says why.
    """
    try:
        version = reader.check(folder).version("adapter", folder)
    except InvalidAdapterError as error:
        raise TrainingError(f"{option} {folder.name!r} cannot be used: {error.message}") from None
    if version.kind != kind:
        raise TrainingError(f"{option} {folder.name!r} is of the kind {version.kind}; {kind} is accepted")
    own = ScoredForm.of(version.intrinsic)
    if own != form:
        raise TrainingError(f"{option} {folder.name!r} answers with {own.words}, and the spec asks for {form.words}")
    return version


def chosen_rows(prepared: PreparedTraining, choice: RowChoice) -> list[TrainingRow]:
    """Return the rows that are asked about: all of a split, or some by the seed, in the order of the data.

    Raises:
        TrainingError: there are none.
    """
    rows = prepared.data.splits[choice.split].rows
    if not rows:
        raise TrainingError(
            f"{prepared.spec.path.name} has no rows in the split {choice.split!r}; at least one is needed"
        )
    if choice.limit is None or choice.limit >= len(rows):
        return list(rows)
    picks = random.Random(choice.seed).sample(range(len(rows)), choice.limit)  # noqa: S311
    return [rows[place] for place in sorted(picks)]


def _served(
    platform: PlatformTarget,
    adapters: Mapping[Role, AdapterVersion],
    rows: Sequence[TrainingRow],
    form: ScoredForm,
    progress: TrainingProgress,
) -> list[ArmAnswers]:
    main: Role = next(iter(adapters))
    models: list[tuple[Role, str | None]] = [(main, platform.model), ("lora", platform.twin_model)]
    if platform.twin_model is not None and "lora" not in adapters:
        raise TrainingError(f"--twin-model is {platform.twin_model!r} without --twin; accepted: both")
    found = []
    with closing(ServedAnswers(platform)) as client:
        for role, model in models:
            if model is None:
                continue
            items = client.answers(model, adapters[role], rows, form, progress)
            found.append(ArmAnswers(f"{_NAMES[role]}, served", role, "platform", items, {"model": model}))
    return found


def _report(request: EvaluationRequest, form: ScoredForm, arms: Sequence[ArmResult]) -> EvaluationReport:
    reference = {arm.role: arm for arm in arms if arm.through == "peft"}
    return EvaluationReport(
        task=request.spec.name,
        kind=form.kind,
        labels=form.labels,
        primary=PRIMARY[form.kind],
        split=request.choice.split,
        arms=tuple(arms),
        comparisons=tuple(compared(form, arms, seed=request.choice.seed)),
        agreements=tuple(
            agreement(reference[arm.role], arm, request.coarser_dtype) for arm in arms if arm.through == "platform"
        ),
        facts=facts_of(request.prepared, request.choice, len(arms[0].items), request.platform),
    )
