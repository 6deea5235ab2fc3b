"""Untrained adapters: servable, the same every time, and loadable by PEFT."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from aloraserve.adapters import AdapterReader, BaseShape, FolderRegistry
from aloraserve_services.models.untrained import INTRINSICS, PIPELINE, invocation_text, write_untrained_adapters


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, model_path: Path) -> Path:
    root = tmp_path_factory.mktemp("adapters")
    write_untrained_adapters(root, model_path)
    return root


def test_the_registry_serves_every_adapter_and_its_twin(root: Path, model_path: Path, tokenizer: Any) -> None:
    registry = FolderRegistry(root, AdapterReader(base=BaseShape.read(model_path), max_rank=32))
    assert registry.refused() == ()
    kinds = {adapter.name: adapter.kind for adapter in registry.all()}
    assert kinds == dict.fromkeys(INTRINSICS, "alora") | {f"{name}-lora": "lora" for name in INTRINSICS}
    for adapter in registry.all():
        assert adapter.untrained
        assert (tokenizer.decode(adapter.invocation_ids) or None) == (
            invocation_text(adapter.name) if adapter.kind == "alora" else None
        )


def test_every_adapter_is_an_intrinsic_that_gives_a_probability(model_path: Path, tmp_path: Path) -> None:
    write_untrained_adapters(tmp_path, model_path, names=PIPELINE)
    registry = FolderRegistry(tmp_path, AdapterReader(base=BaseShape.read(model_path), max_rank=32))
    assert registry.refused() == ()
    specs = {version.name: version.intrinsic for version in registry.all()}
    assert {name.removesuffix("-lora") for name in specs} == set(PIPELINE)
    assert all(spec is not None and spec.gives_probability for spec in specs.values())
    assert all(specs[name] == specs[f"{name}-lora"] for name in PIPELINE)


def test_a_twin_has_its_alora_s_weights(root: Path) -> None:
    for name in INTRINSICS:
        files = [root / folder / "adapter_model.safetensors" for folder in (name, f"{name}-lora")]
        assert files[0].read_bytes() == files[1].read_bytes()
    assert len({(root / name / "adapter_model.safetensors").read_bytes() for name in INTRINSICS}) == 3


def test_an_invocation_is_tokenized_apart_from_what_precedes_it(tokenizer: Any) -> None:
    def encode(text: str) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=False))

    for before in ("<|im_start|>user\nhello<|im_end|>\n", "hello", "a\n\n", "<|im_start|>assistant\nyes."):
        for name in INTRINSICS:
            assert encode(before + invocation_text(name)) == encode(before) + encode(invocation_text(name))
    assert len({invocation_text(name) for name in INTRINSICS}) == 3


def test_equal_seeds_give_equal_adapters_and_others_do_not(root: Path, model_path: Path, tmp_path: Path) -> None:
    write_untrained_adapters(tmp_path / "same", model_path, names=("safety",))
    write_untrained_adapters(tmp_path / "other", model_path, seed=1, names=("safety",))
    weights = [(path / "safety" / "adapter_model.safetensors").read_bytes() for path in (root, tmp_path / "same")]
    assert weights[0] == weights[1]
    assert (tmp_path / "other" / "safety" / "adapter_model.safetensors").read_bytes() != weights[0]


def test_a_folder_is_written_again_only_for_another_seed(model_path: Path, tmp_path: Path) -> None:
    folder, twin = write_untrained_adapters(tmp_path, model_path, names=("safety",))
    before = folder.stat().st_ino
    write_untrained_adapters(tmp_path, model_path, names=("safety",))
    assert folder.stat().st_ino == before
    write_untrained_adapters(tmp_path, model_path, seed=1, names=("safety",))
    assert json.loads((twin / "stamp.json").read_text())["seed"] == 1


def test_a_folder_that_someone_else_wrote_is_left_alone(model_path: Path, tmp_path: Path) -> None:
    (tmp_path / "safety").mkdir()
    (tmp_path / "safety" / "trained").write_text("by hand")
    write_untrained_adapters(tmp_path, model_path, names=("safety",))
    assert [path.name for path in (tmp_path / "safety").iterdir()] == ["trained"]


def test_peft_loads_one_and_its_answers_differ_from_the_base_s(root: Path, model_path: Path, tokenizer: Any) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    text = "<|im_start|>user\nIs the sea deep?<|im_end|>\n" + invocation_text("safety")
    ids = tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"]
    model = AutoModelForCausalLM.from_pretrained(str(model_path), dtype=torch.float32, local_files_only=True)
    with torch.no_grad():
        base = model(ids).logits
        peft = PeftModel.from_pretrained(model, str(root / "safety"))
        assert peft.peft_config["default"].alora_invocation_tokens
        adapted = peft(input_ids=ids).logits
    start = ids.shape[1] - len(tokenizer.encode(invocation_text("safety"), add_special_tokens=False))
    assert bool(torch.isfinite(adapted).all())
    assert torch.allclose(base[0, :start], adapted[0, :start], atol=1e-4)
    assert not torch.allclose(base[0, -1], adapted[0, -1], atol=0.1)
