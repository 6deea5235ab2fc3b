"""The loop of both kinds: transformers' Trainer, with our batches, our loss and our checkpoints."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerState, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from aloraserve.training.spec import LoopSpec
from aloraserve_services.training.batch_order import BatchOrder
from aloraserve_services.training.cached_prefixes import CachedPrefixes
from aloraserve_services.training.checkpoints import STATE_FILE, Checkpoints, load_adapter, load_optimizer
from aloraserve_services.training.collator import IGNORED, Collator
from aloraserve_services.training.examples import TrainingExample
from aloraserve_services.training.loop_callback import LoopCallback, validations_since_best
from aloraserve_services.training.progress import TrainingProgress
from aloraserve_services.training.stopping import StopRequest

_LOGGED_STEPS = 500


@dataclass(frozen=True, slots=True)
class TrainingParts:
    """All that a loop runs on.

    Args:
        model: a ``PeftModel``.
        collator: that makes its batches.
        train: examples to learn.
        validation: examples to choose the best step by.
        prefixes: of an aLoRA; None to compute each whole example in each epoch.
    """

    model: Any
    collator: Collator
    train: Sequence[TrainingExample]
    validation: Sequence[TrainingExample]
    prefixes: CachedPrefixes | None = None


class AdapterTrainer(Trainer):
    """Trains an adapter; after it, ``model`` has the best step's weights.

    Args:
        parts: what it runs on.
        loop: the settings.
        checkpoints: where they are written.
        folder: transformers' own; nothing is written there.
    """

    def __init__(self, parts: TrainingParts, loop: LoopSpec, checkpoints: Checkpoints, folder: Path) -> None:
        micro = loop.batch_size // loop.accumulation
        steps = max(1, -(-len(parts.train) // loop.batch_size))
        device = parts.model.device.type
        super().__init__(
            model=parts.model,
            args=TrainingArguments(
                output_dir=str(folder),
                num_train_epochs=loop.epochs,
                per_device_train_batch_size=micro,
                gradient_accumulation_steps=loop.accumulation,
                learning_rate=loop.learning_rate,
                lr_scheduler_type="linear",
                warmup_steps=loop.warmup,
                weight_decay=loop.weight_decay,
                seed=loop.seed,
                gradient_checkpointing=loop.gradient_checkpointing,
                gradient_checkpointing_kwargs={"use_reentrant": False} if loop.gradient_checkpointing else None,
                use_cpu=device == "cpu",
                eval_strategy="epoch",
                save_strategy="no",
                logging_steps=max(1, int(steps * loop.epochs) // _LOGGED_STEPS),
                metric_for_best_model=f"eval_{loop.best_by}",
                greater_is_better=loop.best_by == "accuracy",
                remove_unused_columns=False,
                disable_tqdm=True,
                report_to="none",
            ),
            train_dataset=list(parts.train),
            eval_dataset=list(parts.validation),
            data_collator=parts.collator,
        )
        self.remove_callback(PrinterCallback)
        # Our loss is divided by the tokens of the whole step.
        self.loss_is_scaled_for_ga = True
        # One process per device: transformers would spread a batch over all that it sees.
        self.args._n_gpu = min(self.args.n_gpu, 1)
        self.checkpoints = checkpoints
        self._prefixes = parts.prefixes
        self._stop = StopRequest()
        self._patience = loop.patience
        self._epoch_steps = steps
        lengths = [len(example.token_ids) for example in parts.train]
        self.order = BatchOrder(lengths, loop.batch_size, loop.seed)

    def steer(self, progress: TrainingProgress, stop: StopRequest, checkpoint_s: float) -> None:
        """Report to ``progress``, end when ``stop`` asks for it, write a checkpoint every ``checkpoint_s`` seconds."""
        self._stop = stop
        self.add_callback(
            LoopCallback(
                self.order,
                progress,
                stop,
                seed=self.args.seed,
                patience=self._patience,
                epoch_steps=self._epoch_steps,
                checkpoint_s=checkpoint_s,
            )
        )

    def run(self, checkpoint: Path | None) -> None:
        """Train from a checkpoint, or from the beginning; a training that is done already is left at that."""
        if checkpoint is not None:
            state = TrainerState.load_from_json(str(checkpoint / STATE_FILE))
            patience = self._patience or float("inf")
            if state.global_step >= state.max_steps or validations_since_best(state, self.args) >= patience:
                self.state = state
                return
        if not self._stop:
            self.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))

    def load_best(self) -> bool:
        """Give the adapter the best epoch's weights; say whether there is one."""
        best = self.checkpoints.best
        if best is not None:
            self.load_tensors(load_adapter(best))
        return best is not None

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Return the batches of an epoch, in :class:`BatchOrder`."""
        return DataLoader(
            self.train_dataset,
            batch_size=self.args.per_device_train_batch_size,
            sampler=self.order,
            collate_fn=self.data_collator,
        )

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """Return the mean loss of a batch's part of its step's completion tokens."""
        logits, labels = self._logits(model, inputs)
        total = torch.nn.functional.cross_entropy(
            logits.float().transpose(1, 2), labels, ignore_index=IGNORED, reduction="sum"
        )
        return total / (num_items_in_batch or (labels != IGNORED).sum())

    def validate(self, examples: Sequence[TrainingExample]) -> dict[str, float]:
        """Return the loss per completion token, and the share of examples whose every token is the most probable.

        Args:
            examples: at least one.
        """
        order = sorted(range(len(examples)), key=lambda index: len(examples[index].token_ids))
        size = self.args.per_device_train_batch_size
        loss, tokens, right = 0.0, 0, 0
        with self._evaluating():
            for start in range(0, len(order), size):
                batch = [examples[index] for index in order[start : start + size]]
                logits, labels = self._logits(self.model, self._prepare_inputs(self.data_collator(batch)))
                learned = labels != IGNORED
                losses = torch.nn.functional.cross_entropy(
                    logits.float().transpose(1, 2), labels, ignore_index=IGNORED, reduction="none"
                )
                loss += losses.double().sum().item()
                tokens += int(learned.sum())
                right += int(((logits.argmax(-1) == labels) | ~learned).all(-1).sum())
        return {"loss": loss / tokens, "accuracy": right / len(examples)}

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Return the metrics of the validation examples, as transformers names them."""
        metrics = {f"eval_{name}": value for name, value in self.validate(self.eval_dataset).items()}
        self.log(metrics)
        self.control: Any = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def adapter_tensors(self) -> dict[str, torch.Tensor]:
        """Return a copy of the adapter's weights, by name."""
        return {
            name: value.detach().cpu().clone().contiguous()
            for name, value in self.model.named_parameters()
            if value.requires_grad
        }

    def load_tensors(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Give the adapter these weights.

        Raises:
            KeyError: one is missing.
        """
        with torch.no_grad():
            for name, value in self.model.named_parameters():
                if value.requires_grad:
                    value.copy_(tensors[name])

    def _logits(self, model: Any, inputs: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the logits of a batch's completion tokens, and these tokens.

        Returns:
            ``[batch, tokens, vocabulary]``, and ``[batch, tokens]`` with :data:`IGNORED` where there is none.
        """
        inputs = dict(inputs)
        labels, prefixes = inputs.pop("labels"), inputs.pop("prefixes", None)
        tokens = inputs["input_ids"].shape[1]
        if prefixes is not None:
            assert self._prefixes is not None
            inputs["past_key_values"] = self._prefixes.load(prefixes, tokens)
        # Indexes and not a number: of a slice torch multiplies a copy of the head's weights per example.
        kept = torch.arange(tokens - labels.shape[1], tokens, device=labels.device)
        logits = model(**inputs, use_cache=False, logits_to_keep=kept).logits
        return logits[:, :-1], labels[:, 1:]

    @contextlib.contextmanager
    def _evaluating(self) -> Iterator[None]:
        """Use the model without gradients, and so without checkpointing: PEFT allows one pass per backward there."""
        self.model.eval()
        if self.args.gradient_checkpointing:
            self.model.gradient_checkpointing_disable()
        try:
            with torch.no_grad():
                yield
        finally:
            if self.args.gradient_checkpointing:
                self.model.gradient_checkpointing_enable(self.args.gradient_checkpointing_kwargs)
            self.model.train()

    def _get_num_items_in_batch(self, batch_samples: list[dict[str, Any]], device: torch.device) -> torch.Tensor:
        return torch.stack([(batch["labels"] != IGNORED).sum() for batch in batch_samples]).sum().to(device)

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        is_best = super()._determine_best_metric(metrics, trial)
        if is_best:
            self.state.best_global_step = self.state.global_step
            self.checkpoints.save_best(self.adapter_tensors(), self.state.global_step)
        return is_best

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        state = json.dumps(asdict(self.state), indent=2, sort_keys=True)
        self.checkpoints.save(self.state.global_step, self.adapter_tensors(), self.optimizer, self.lr_scheduler, state)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        self.load_tensors(load_adapter(Path(resume_from_checkpoint)))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            load_optimizer(Path(checkpoint), self.optimizer, self.lr_scheduler)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Do nothing: each step's seed follows from its number."""
