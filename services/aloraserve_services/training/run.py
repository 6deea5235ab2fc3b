"""A training from its spec to the adapter's folder."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aloraserve.adapters import BaseShape
from aloraserve.errors import StartError
from aloraserve.training import TrainingSpec
from aloraserve_services.extras import require
from aloraserve_services.models.hardware import Dtype
from aloraserve_services.models.model_files import SMOLLM2_ALIASES, resolve_model
from aloraserve_services.training.prepare import prepare
from aloraserve_services.training.prepared import PreparedData
from aloraserve_services.training.progress import Silence, TrainingProgress
from aloraserve_services.training.run_folder import RunFolder
from aloraserve_services.training.stopping import StopRequest

LIBRARIES = ("torch", "transformers", "peft", "accelerate")
CHECKPOINT_S = 60.0
Metrics = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True, slots=True)
class TrainedAdapter:
    """A training's result.

    Args:
        folder: of the adapter.
        results: metrics by split, of the weights as they are written.
        steps: that were done.
        all_steps: that were asked for.
        stopped_by: name of the signal that ended it before; empty if none did.
    """

    folder: Path
    results: Metrics
    steps: int
    all_steps: int
    stopped_by: str = ""


@dataclass(frozen=True, slots=True)
class PreparedTraining:
    """A spec with its data and its base model's place.

    Args:
        spec: of the training.
        data: as examples.
        base_name: of the base model, for people.
        base_path: its folder.
        dtype: of its weights.
    """

    spec: TrainingSpec
    data: PreparedData
    base_name: str
    base_path: Path
    dtype: Dtype


def prepare_training(spec: TrainingSpec, state_dir: Path, progress: TrainingProgress | None = None) -> PreparedTraining:
    """Return what a training runs on, or every reason why it cannot. Trains nothing.

    Args:
        spec: of the training.
        state_dir: where a converted base model is kept.
        progress: that is told of.

    Raises:
        StartError: the extra ``train`` is not installed, or the base model cannot be made.
        SettingsError: the base model is not there.
        TrainingError: the spec or its data cannot be used.
    """
    require("train", "training adapters", *LIBRARIES)
    from aloraserve_services.training.base_weights import chosen_dtype

    note = (progress or Silence()).note
    dtype = chosen_dtype(spec.training.dtype)
    base = spec.base if spec.base.lower() in SMOLLM2_ALIASES else str(spec.file(spec.base))
    name, path = resolve_model(base, state_dir, dtype, progress=note)
    return PreparedTraining(spec, prepare(spec, path), name, path, dtype)


def train(
    spec: TrainingSpec,
    out: Path,
    *,
    state_dir: Path,
    progress: TrainingProgress | None = None,
    resume: bool = False,
    replace: bool = False,
    checkpoint_s: float = CHECKPOINT_S,
) -> TrainedAdapter:
    """Train an adapter and write its folder.

    SIGINT and SIGTERM end the training after the step that is under way: a checkpoint is written, and the adapter of
    the best epoch so far if there is one.

    Args:
        spec: of the training.
        out: folder to write.
        state_dir: where a converted base model and cached prefixes are kept.
        progress: that is told of.
        resume: whether to go on with a training that was ended.
        replace: whether a folder that is there is replaced.
        checkpoint_s: seconds between checkpoints, beside those after each epoch.

    Raises:
        StartError: a library is missing, or the disk is full.
        SettingsError: ``out`` is there already, or there is nothing to go on with.
        TrainingError: the spec or its data cannot be used.
    """
    progress = progress or Silence()
    stop = StopRequest()
    folder = RunFolder(out.absolute())
    with folder.held(), stop.heard():
        prepared = prepare_training(spec, state_dir, progress)
        for remark in prepared.data.remarks:
            progress.note(remark)
        run = _Run(prepared, folder, state_dir, progress, stop, checkpoint_s)
        return run.train(resume=resume, replace=replace)


def training_digest(spec: TrainingSpec, base_digest: str, dtype: Dtype, data: PreparedData) -> str:
    """Return a hex SHA-256 of all that decides a training's result.

    Args:
        spec: of the training.
        base_digest: of the base model's weights.
        dtype: of the base model's weights, as they are loaded.
        data: as examples, which depend on the tokenizer, the chat template and the end token.
    """
    return hashlib.sha256("/".join((spec.digest(), base_digest, dtype, data.digest)).encode()).hexdigest()


class _Run:
    """One training."""

    def __init__(
        self,
        prepared: PreparedTraining,
        folder: RunFolder,
        state_dir: Path,
        progress: TrainingProgress,
        stop: StopRequest,
        checkpoint_s: float,
    ) -> None:
        from aloraserve_services.training.base_weights import base_digest

        self._prepared = prepared
        self._spec = prepared.spec
        self._folder = folder
        self._state_dir = state_dir
        self._progress = progress
        self._stop = stop
        self._checkpoint_s = checkpoint_s
        self._started = time.monotonic()
        self._base_digest = base_digest(prepared.base_path)
        self._cached = False

    def train(self, *, resume: bool, replace: bool) -> TrainedAdapter:
        """Train and write."""
        checkpoint = self._folder.begin(self._digest(), resume=resume, replace=replace)
        trainer = self._trainer()
        if checkpoint is not None:
            self._progress.note(f"goes on from {checkpoint.name}")
        trainer.run(checkpoint)
        if not trainer.load_best():
            state = trainer.state
            raise StartError(
                f"stopped by {self._stop.signal_name} at step {state.global_step} of {state.max_steps}, before the "
                "first validation: no adapter is written; --resume goes on"
            )
        return self._write(trainer)

    def _digest(self) -> str:
        return training_digest(self._spec, self._base_digest, self._prepared.dtype, self._prepared.data)

    def _trainer(self) -> Any:
        from aloraserve_services.training.adapter_trainer import AdapterTrainer, TrainingParts
        from aloraserve_services.training.collator import Collator
        from aloraserve_services.training.peft_model import new_adapter

        splits, data = self._prepared.data.splits, self._prepared.data
        model = new_adapter(self._prepared.base_path, self._prepared.dtype, self._spec, data.invocation_ids)
        prefixes = self._prefixes(model)
        parts = TrainingParts(
            model=model,
            collator=Collator(data.end_token, self._spec.kind == "alora", cut_prefixes=prefixes is not None),
            train=splits["train"].examples,
            validation=splits["validation"].examples,
            prefixes=prefixes,
        )
        trainer = AdapterTrainer(parts, self._spec.training, self._folder.checkpoints, self._folder.path)
        trainer.steer(self._progress, self._stop, self._checkpoint_s)
        return trainer

    def _prefixes(self, model: Any) -> Any:
        from aloraserve_services.training.cached_prefixes import cached_prefixes

        loop = self._spec.training
        if self._spec.kind != "alora" or not loop.cache_prefixes:
            return None
        examples = [example for split in self._prepared.data.splits.values() for example in split.examples]
        base = f"{self._base_digest[:24]}-{self._prepared.dtype}"
        folder = self._state_dir / "prefixes"
        prefixes, why_not = cached_prefixes(model, base, folder, loop.cache_bytes, examples)
        if prefixes is None:
            self._progress.note(f"prefixes are not cached: {why_not}; whole conversations are computed in each epoch")
            return None
        self._cached = True
        prefixes.prepare(lambda done, total: self._progress.advance("prefixes", done, total), lambda: self._stop)
        self._progress.note(prefixes.summary)
        return prefixes

    def _write(self, trainer: Any) -> TrainedAdapter:
        from aloraserve_services.training.peft_model import saved_tensors

        tensors = saved_tensors(trainer.model, self._spec.training.saved_dtype)
        splits = self._prepared.data.splits
        held_back: dict[str, Sequence[Any]] = {
            name: split.examples for name, split in splits.items() if name != "train" and split.examples
        }
        results = {name: trainer.validate(examples) for name, examples in held_back.items()}
        self._output(trainer, tensors, results).write(self._folder.out, BaseShape.read(self._prepared.base_path))
        state = trainer.state
        if self._stop and state.global_step < state.max_steps:
            self._folder.mark_stopped()
        else:
            self._folder.remove()
        return TrainedAdapter(self._folder.out, results, state.global_step, state.max_steps, self._stop.signal_name)

    def _output(self, trainer: Any, tensors: Mapping[str, Any], results: Metrics) -> Any:
        from aloraserve_services.training.model_card import CardFacts, model_card
        from aloraserve_services.training.output import AdapterOutput
        from aloraserve_services.training.peft_model import tensors_digest

        facts = CardFacts(
            base_name=self._prepared.base_name,
            base_digest=self._base_digest,
            dtype=self._prepared.dtype,
            device=trainer.model.device.type,
            cached=self._cached,
            spec_digest=self._spec.digest(),
            weights_digest=tensors_digest(tensors),
            best_step=trainer.state.best_global_step,
            steps=trainer.state.global_step,
            stopped=bool(self._stop),
            seconds=time.monotonic() - self._started,
            results=results,
        )
        data = self._prepared.data
        return AdapterOutput(
            spec=self._spec,
            mode=data.mode,
            base_name=self._prepared.base_name,
            config=trainer.model.peft_config["default"],
            tensors=tensors,
            log=trainer.state.log_history,
            card=model_card(self._spec, data, facts),
        )
