"""The model card of a trained adapter: from what, how, and how good it is."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import yaml

from aloraserve.adapters.intrinsics import IntrinsicSpec
from aloraserve.training import TrainingSpec
from aloraserve_services.models.hardware import Dtype, describe_machine
from aloraserve_services.training.prepared import PreparedData

_LIBRARIES = ("torch", "transformers", "peft", "accelerate")


@dataclass(frozen=True, slots=True)
class CardFacts:
    """The facts of a training that a card has beside the spec.

    Args:
        base_name: of the base model.
        base_digest: of its weights.
        dtype: that it was trained in.
        device: that it was trained on.
        cached: whether prefixes were cached.
        spec_digest: of settings and data.
        weights_digest: SHA-256 of the adapter's tensors.
        best_step: whose weights these are.
        steps: that were done.
        stopped: whether that are fewer than were asked for, because the training was stopped.
        seconds: that the training took, in this run.
        results: metrics by split.
    """

    base_name: str
    base_digest: str
    dtype: Dtype
    device: str
    cached: bool
    spec_digest: str
    weights_digest: str
    best_step: int
    steps: int
    stopped: bool
    seconds: float
    results: Mapping[str, Mapping[str, float]]


def model_card(spec: TrainingSpec, data: PreparedData, facts: CardFacts) -> str:
    """Return the card in Markdown, with the hub's header."""
    intrinsic = spec.intrinsic_spec()
    parts = [
        _header(spec, facts),
        f"# {spec.name}\n\n{spec.description or 'An adapter trained with aloraserve.'}",
        "## Use\n\n" + "\n".join(_use(spec, data, intrinsic)),
        "## Results\n\n" + "\n".join(_results(facts)),
        "## Data\n\n" + "\n".join(_data(spec, data)),
        "## Training\n\n" + "\n".join(_table(_settings(spec, facts))),
    ]
    return "\n\n".join(parts) + "\n"


def _header(spec: TrainingSpec, facts: CardFacts) -> str:
    fields = {
        "base_model": facts.base_name,
        "library_name": "peft",
        "license": spec.licence or "unknown",
        "tags": ["lora", "aloraserve", *(["alora"] if spec.kind == "alora" else [])],
    }
    return f"---\n{yaml.safe_dump(fields, sort_keys=False, allow_unicode=True)}---"


def _use(spec: TrainingSpec, data: PreparedData, intrinsic: IntrinsicSpec | None) -> Iterable[str]:
    if spec.kind == "alora":
        yield f"An Activated LoRA: it acts from its invocation on, `{_code(spec.invocation)}`"
        yield f"(token ids {list(data.invocation_ids)}), which stands in mode `{data.mode.value}`."
    else:
        yield f"A plain LoRA, trained on prompts with `{_code(spec.invocation)}` in mode `{data.mode.value}`."
    if intrinsic is not None:
        yield "What it asks and what its answers mean stands in `aloraserve.json` or `io.yaml`."


def _results(facts: CardFacts) -> Iterable[str]:
    yield "| split | loss per token | whole answers right, the likeliest token at each place |"
    yield "|---|---|---|"
    for split, metrics in facts.results.items():
        yield f"| {split} | {metrics['loss']:.4f} | {metrics['accuracy']:.1%} |"


def _data(spec: TrainingSpec, data: PreparedData) -> Iterable[str]:
    yield "| split | rows | conversations | tokens | learned | skipped | documents cut |"
    yield "|---|---|---|---|---|---|---|"
    for name, split in data.splits.items():
        counts = (split.conversations, split.tokens.total, split.tokens.learned, len(split.skipped), len(split.cut))
        yield f"| {name} | {len(split.rows)} | " + " | ".join(map(str, counts)) + " |"
    yield ""
    yield from (f"- {source}" for source in spec.sources or ("no sources are stated",))


def _settings(spec: TrainingSpec, facts: CardFacts) -> dict[str, object]:
    lora, loop = spec.lora, spec.training
    early = " (stopped before its end)" if facts.stopped else ""
    libraries = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in _LIBRARIES)
    return {
        "kind": spec.kind,
        "rank, alpha, dropout": f"{lora.rank}, {lora.alpha:g}, {lora.dropout:g}",
        "targets": ", ".join(lora.targets),
        "epochs": f"{loop.epochs:g}",
        "batch": loop.batch_size,
        "learning rate": f"{loop.learning_rate:g}, warm-up {loop.warmup:g}, then linear to 0",
        "weight decay": f"{loop.weight_decay:g}",
        "steps": f"{facts.steps}{early}; best by validation {loop.best_by}: {facts.best_step}",
        "seed": loop.seed,
        "dtype": f"{facts.dtype}, adapter in float32, kept in {loop.saved_dtype}",
        "prefixes cached": "yes" if facts.cached else "no",
        "time": f"{facts.seconds:.0f} s",
        "machine": f"{facts.device}; {describe_machine()}",
        "versions": f"Python {platform.python_version()}, {libraries}",
        "base model": f"{facts.base_name}, SHA-256 {facts.base_digest}",
        "spec and data": f"SHA-256 {facts.spec_digest}",
        "weights": f"SHA-256 {facts.weights_digest}",
    }


def _table(rows: Mapping[str, object]) -> Iterable[str]:
    yield "| | |"
    yield "|---|---|"
    for name, value in rows.items():
        yield f"| {name} | {value} |"


def _code(text: str) -> str:
    return text.encode("unicode_escape").decode("ascii").replace("`", "\\x60")
