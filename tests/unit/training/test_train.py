"""A training from its spec to a folder that PEFT and the platform load."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from aloraserve.adapters import AdapterReader, BaseShape
from aloraserve.errors import SettingsError, TrainingError
from aloraserve.training import TrainingSpec
from aloraserve_services.training.progress import Silence
from aloraserve_services.training.run import train

MakeSpec = Callable[..., TrainingSpec]


class Notes(Silence):
    """Keeps the sentences."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def note(self, text: str) -> None:
        self.texts.append(text)


def validation_losses(folder: Path) -> list[float]:
    entries = map(json.loads, (folder / "training_log.jsonl").read_text().splitlines())
    return [entry["eval_loss"] for entry in entries if "eval_loss" in entry]


def learning_much(spec: TrainingSpec) -> TrainingSpec:
    """Return the spec at a rate at which random weights learn in three epochs."""
    loop = spec.training.model_copy(update={"learning_rate": 2e-2, "epochs": 3.0})
    return spec.model_copy(update={"training": loop})


@pytest.mark.parametrize("more", ["", "cache_prefixes: false", "gradient_checkpointing: true, accumulation: 2"])
def test_the_loss_falls_and_the_adapter_is_served(
    made_spec: MakeSpec, tmp_path: Path, tiny_base: Path, more: str
) -> None:
    made = train(learning_much(made_spec(more)), tmp_path / "safety", state_dir=tmp_path / "state")
    found = validation_losses(made.folder)
    assert found[-1] < found[0] - 1
    version = AdapterReader(base=BaseShape.read(tiny_base), max_rank=32).read("safety", made.folder)
    assert (version.kind, version.rank, version.untrained) == ("alora", 4, False)
    assert version.invocation_text == "<|start|>safety\n"
    assert version.intrinsic is not None
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_base), made.folder)
    assert model.peft_config["default"].alora_invocation_tokens == list(version.invocation_ids)
    assert all(value.abs().max() > 0 for name, value in model.named_parameters() if "lora_B" in name)
    assert {path.name for path in tmp_path.iterdir() if path.name.startswith(".")} == set()


def test_cached_prefixes_give_the_weights_that_whole_conversations_give(made_spec: MakeSpec, tmp_path: Path) -> None:
    for name, more in (("cached", ""), ("whole", "cache_prefixes: false"), ("again", "")):
        train(made_spec(more), tmp_path / name, state_dir=tmp_path / "state")
    cached, whole, again = (
        load_file(tmp_path / name / "adapter_model.safetensors") for name in ("cached", "whole", "again")
    )
    assert all(torch.equal(cached[name], again[name]) for name in cached)
    assert max(float((cached[name] - whole[name]).abs().max()) for name in cached) < 1e-4


def test_a_training_ends_early_where_validation_gets_no_better_and_keeps_its_best(
    made_spec: MakeSpec, tmp_path: Path
) -> None:
    spec = made_spec()
    # What is learned from the training rows is wrong for these.
    rows = (tmp_path / "validation.jsonl").read_text()
    (tmp_path / "validation.jsonl").write_text(rows.translate(str.maketrans("NY", "YN")))
    epochs, patience = 20, 2
    loop = spec.training.model_copy(update={"learning_rate": 2e-2, "epochs": float(epochs), "patience": patience})
    progress = Notes()
    spec = spec.model_copy(update={"training": loop})
    made = train(spec, tmp_path / "safety", state_dir=tmp_path / "state", progress=progress)
    found = validation_losses(made.folder)
    best = found.index(min(found))
    assert len(found) == best + 1 + patience
    assert len(found) < epochs
    assert f"ended early: validations without a better one: {patience}" in progress.texts
    steps = -(-20 // spec.training.batch_size)
    assert f"best by validation loss: {steps * (best + 1)} " in (made.folder / "README.md").read_text()


def test_the_bound_of_the_cache_holds_for_all_base_models(made_spec: MakeSpec, tmp_path: Path) -> None:
    old = tmp_path / "state" / "prefixes" / "another-base" / "ab" / "abc.safetensors"
    old.parent.mkdir(parents=True)
    old.write_bytes(b"x" * 2**20)
    train(made_spec("cache_bytes: 1048576"), tmp_path / "safety", state_dir=tmp_path / "state")
    kept = [path for path in (tmp_path / "state" / "prefixes").rglob("*") if path.is_file()]
    assert kept
    assert old not in kept
    assert sum(path.stat().st_size for path in kept) <= 2**20


def test_a_twin_is_a_plain_lora(made_spec: MakeSpec, tmp_path: Path, tiny_base: Path) -> None:
    made = train(learning_much(made_spec().twin()), tmp_path / "twin", state_dir=tmp_path / "state")
    found = validation_losses(made.folder)
    assert found[-1] < found[0] - 1
    assert AdapterReader(base=BaseShape.read(tiny_base), max_rank=32).read("twin", made.folder).kind == "lora"
    assert not (tmp_path / "state" / "prefixes").exists()


def test_the_card_says_from_what_and_how(made_spec: MakeSpec, tmp_path: Path, tiny_base: Path) -> None:
    card = (train(made_spec(), tmp_path / "safety", state_dir=tmp_path / "state").folder / "README.md").read_text()
    for said in (
        "license: Apache-2.0",
        "made up for a test",
        "| validation |",
        "| seed | 0 |",
        "tiny-llama",
        "SHA-256",
    ):
        assert said in card
    assert str(tmp_path) not in card


def test_a_folder_that_is_there_is_replaced_on_request_alone(made_spec: MakeSpec, tmp_path: Path) -> None:
    out = tmp_path / "safety"
    out.mkdir()
    (out / "mine.txt").write_text("keep")
    with pytest.raises(SettingsError, match="is there already; --replace"):
        train(made_spec(), out, state_dir=tmp_path / "state")
    assert (out / "mine.txt").read_text() == "keep"
    train(made_spec(), out, state_dir=tmp_path / "state", replace=True)
    assert not (out / "mine.txt").exists()


def test_linears_that_the_model_does_not_have_are_named(made_spec: MakeSpec, tmp_path: Path) -> None:
    spec = made_spec()
    odd = spec.model_copy(update={"lora": spec.lora.model_copy(update={"targets": ("wq",)})})
    with pytest.raises(TrainingError, match=r"spec.yaml:9 has lora.targets \['wq'\]"):
        train(odd, tmp_path / "safety", state_dir=tmp_path / "state")
    assert not (tmp_path / "safety").exists()


def test_a_spec_that_is_refused_leaves_nothing(made_spec: MakeSpec, tmp_path: Path) -> None:
    spec = made_spec()
    (tmp_path / "train.jsonl").write_text("{}\n")
    with pytest.raises(TrainingError):
        train(spec, tmp_path / "refused", state_dir=tmp_path / "state")
    assert {path.name for path in tmp_path.iterdir() if path.name.startswith((".", "refused"))} == set()
