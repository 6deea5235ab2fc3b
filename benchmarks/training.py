"""``make bench-training``: our loop against PEFT's own, for both kinds, on the same examples and settings.

PEFT's own loop is transformers' Trainer as its documentation has it: whole examples, padded, in each epoch, the loss on
the completion by labels. Ours computes an aLoRA's prefixes once; that pass is in its time.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from aloraserve.training.spec import LoopSpec
from aloraserve_services.cli.console import Steps, out
from aloraserve_services.cli.options import ChosenSettings, JsonFile, check_result_file, takes_settings
from aloraserve_services.extras import require
from aloraserve_services.models.hardware import Dtype, describe_machine
from aloraserve_services.models.model_files import resolve_model
from benchmarks.harness.command import run_command
from benchmarks.harness.report import make_table, write_json
from benchmarks.harness.stats import median_of

Kind = Literal["alora", "lora"]
RANKS: dict[Kind, int] = {"alora": 32, "lora": 6}
TARGETS = ("q_proj", "k_proj", "v_proj")
INVOCATION = (1, 4711, 198)
END = 2
PEFT, OURS = "PEFT's loop", "aloraserve train"


@dataclass(frozen=True, slots=True)
class Run:
    """One training.

    Args:
        kind: of the adapter.
        loop: whose it was.
        wall_s: seconds that passed.
        cpu_s: seconds of all threads.
    """

    kind: Kind
    loop: str
    wall_s: float
    cpu_s: float


@dataclass(frozen=True, slots=True)
class Workload:
    """What is trained on.

    Args:
        model_path: folder of the base model.
        dtype: of its weights.
        count: examples.
        tokens: of each, about.
        loop: the settings.
    """

    model_path: Path
    dtype: Dtype
    count: int
    tokens: int
    loop: LoopSpec

    def examples(self, kind: Kind) -> Sequence[Any]:
        """Return examples of random tokens, of nearly the same length, with a completion of two."""
        from aloraserve_services.training.examples import TrainingExample

        draw = random.Random(0)  # noqa: S311 - tokens, not secrets
        made = []
        for line in range(self.count):
            start = self.tokens - draw.randrange(self.tokens // 10)
            prompt = [draw.randrange(100, 4000) for _ in range(start)]
            ids = [*prompt, *INVOCATION, draw.randrange(100, 4000), END]
            made.append(TrainingExample(ids, start if kind == "alora" else 0, len(ids) - 2, line))
        return made


@takes_settings("model", "state_dir")
def bench_training(
    chosen: ChosenSettings,
    examples: Annotated[int, typer.Option(min=1, help="Examples per epoch.")] = 16,
    tokens: Annotated[int, typer.Option(min=20, help="Tokens of an example.")] = 500,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the examples.")] = 4,
    batch: Annotated[int, typer.Option(min=1, help="Examples per step.")] = 4,
    rounds: Annotated[int, typer.Option(min=1, help="Trainings of each kind by each loop, in turns.")] = 3,
    dtype: Annotated[Literal["auto", "float32", "bfloat16"], typer.Option(help="Of the base model.")] = "auto",
    json: JsonFile = None,
) -> None:
    """Time trainings of an aLoRA and a LoRA by our loop and by PEFT's own."""
    check_result_file(json)
    require("train", "this benchmark", "torch", "transformers", "peft", "accelerate")
    from aloraserve_services.training.base_weights import chosen_dtype

    steps, settings, weights = Steps(), chosen.load(), chosen_dtype(dtype)
    _, path = resolve_model(settings.model, settings.state_dir, weights, progress=steps)
    workload = Workload(path, weights, examples, tokens, LoopSpec(epochs=float(epochs), batch_size=batch))
    runs = []
    for turn in range(rounds):
        for kind in RANKS:
            for loop, train in ((PEFT, train_by_peft), (OURS, train_by_us)):
                steps(f"round {turn + 1}: {kind}, {loop}")
                runs.append(timed(kind, loop, partial(train, workload, kind)))
    report(runs, workload)
    if json is not None:
        write_json(json, {"machine": describe_machine(), "dtype": weights, "runs": [asdict(run) for run in runs]})


def timed(kind: Kind, loop: str, begin: Callable[[], Callable[[], None]]) -> Run:
    """Return how long a training takes; what ``begin`` does before it returns it is not counted."""
    train = begin()
    wall, cpu = time.perf_counter(), time.process_time()
    train()
    return Run(kind, loop, time.perf_counter() - wall, time.process_time() - cpu)


def train_by_us(workload: Workload, kind: Kind) -> Callable[[], None]:
    """Return a training by our loop, the pass over the prefixes included."""
    from aloraserve_services.training.adapter_trainer import AdapterTrainer, TrainingParts
    from aloraserve_services.training.cached_prefixes import CachedPrefixes
    from aloraserve_services.training.checkpoints import Checkpoints
    from aloraserve_services.training.collator import Collator

    model, examples = new_model(workload, kind), workload.examples(kind)

    def train() -> None:
        with tempfile.TemporaryDirectory() as folder:
            prefixes = None
            if kind == "alora":
                prefixes = CachedPrefixes(model, "bench", Path(folder) / "prefixes", 2**36, examples)
                prefixes.prepare(lambda done, total: None)
            collator = Collator(END, kind == "alora", cut_prefixes=prefixes is not None)
            parts = TrainingParts(model, collator, examples, (), prefixes)
            trainer = AdapterTrainer(parts, workload.loop, Checkpoints(Path(folder)), Path(folder))
            trainer.args.eval_strategy = "no"
            trainer.train()

    return train


def train_by_peft(workload: Workload, kind: Kind) -> Callable[[], None]:
    """Return a training by transformers' Trainer on whole examples."""
    from transformers import Trainer, TrainingArguments

    model, examples, loop = new_model(workload, kind), workload.examples(kind), workload.loop

    def train() -> None:
        with tempfile.TemporaryDirectory() as folder:
            arguments = TrainingArguments(
                output_dir=folder,
                num_train_epochs=loop.epochs,
                per_device_train_batch_size=loop.batch_size,
                learning_rate=loop.learning_rate,
                warmup_steps=loop.warmup,
                seed=loop.seed,
                use_cpu=model.device.type == "cpu",
                train_sampling_strategy="random",
                save_strategy="no",
                logging_strategy="no",
                report_to="none",
                disable_tqdm=True,
                remove_unused_columns=False,
            )
            Trainer(model=model, args=arguments, train_dataset=list(examples), data_collator=whole_batch).train()

    return train


def whole_batch(examples: Sequence[Any]) -> dict[str, Any]:
    """Return whole examples padded on the right, with labels for the completions alone."""
    import torch

    width = max(len(example.token_ids) for example in examples)
    ids = torch.full((len(examples), width), END)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
    for row, example in enumerate(examples):
        length, start = len(example.token_ids), example.completion_start
        ids[row, :length] = torch.tensor(example.token_ids)
        mask[row, :length] = 1
        labels[row, start:length] = ids[row, start:length]
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def new_model(workload: Workload, kind: Kind) -> Any:
    """Return the base model with a new adapter."""
    import torch
    from peft import LoraConfig, get_peft_model

    from aloraserve_services.training.base_weights import load_base

    rank = RANKS[kind]
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=rank,
        lora_alpha=rank,
        target_modules=list(TARGETS),
        alora_invocation_tokens=list(INVOCATION) if kind == "alora" else None,
    )
    torch.manual_seed(0)
    return get_peft_model(load_base(workload.model_path, workload.dtype), config)


def report(runs: Sequence[Run], workload: Workload) -> None:
    """Print medians, and how many times as fast ours is."""
    heads = ("kind", "loop", "wall s", "CPU s", "times as fast (wall)", "(CPU)")
    table = make_table("Trainings, medians", heads, left=("kind", "loop"))
    for kind in RANKS:
        of = {loop: [run for run in runs if (run.kind, run.loop) == (kind, loop)] for loop in (PEFT, OURS)}
        walls = {loop: median_of(found, lambda run: run.wall_s) for loop, found in of.items()}
        cpus = {loop: median_of(found, lambda run: run.cpu_s) for loop, found in of.items()}
        for loop in (PEFT, OURS):
            ratios = (f"{walls[PEFT] / walls[loop]:.2f}", f"{cpus[PEFT] / cpus[loop]:.2f}")
            table.add_row(kind, loop, f"{walls[loop]:.1f}", f"{cpus[loop]:.1f}", *ratios)
    out.print(table)
    out.print(
        f"{workload.count} examples of about {workload.tokens} tokens, {workload.loop.epochs:g} epochs, batches of "
        f"{workload.loop.batch_size}, {workload.dtype}; {describe_machine()}",
        soft_wrap=True,
    )


if __name__ == "__main__":
    run_command(bench_training)
