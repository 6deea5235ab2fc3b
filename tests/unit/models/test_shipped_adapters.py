"""The trained adapters that come with the project, put into a state folder beside untrained ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.tiny_llama import write_tiny_llama

from aloraserve.adapters import AdapterReader, BaseShape, FolderRegistry
from aloraserve.settings import Settings
from aloraserve_services.models import shipped_adapters
from aloraserve_services.models.shipped_adapters import default_adapters, demo_adapters
from aloraserve_services.models.untrained import PIPELINE, STAMP_FILE, twin_adapters, write_untrained_adapters

BOTH = ("", "-lora")


@pytest.fixture
def smollm2(tmp_path: Path) -> Path:
    """A small model in the place of SmolLM2, in a state folder."""
    return write_tiny_llama(tmp_path / "state" / "models" / "smollm2-135m-instruct-float32-0.1.2")


@pytest.fixture
def shipped(tmp_path: Path, smollm2: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Adapters that come with the project: two, of which one has no twin."""
    root = tmp_path / "shipped"
    write_untrained_adapters(root, smollm2, seed=7, names=("safety",))
    for name in ("safety", "safety-lora"):
        sidecar = json.loads((root / name / "aloraserve.json").read_text())
        (root / name / "aloraserve.json").write_text(json.dumps(sidecar | {"untrained": False}))
        (root / name / STAMP_FILE).unlink()
    monkeypatch.setattr(shipped_adapters, "SHIPPED", root)
    return root


def served(folder: Path, model: Path) -> dict[str, bool]:
    """Return the names of the adapters in a folder, with whether each is untrained."""
    registry = FolderRegistry(folder, AdapterReader(base=BaseShape.read(model)))
    assert registry.refused() == ()
    return {version.name: version.untrained for version in registry.all()}


def test_smollm2_has_the_trained_ones_and_the_rest_of_the_pipeline_untrained(smollm2: Path, shipped: Path) -> None:
    found = served(demo_adapters(smollm2.parents[1], smollm2), smollm2)
    assert set(found) == {f"{name}{twin}" for name in PIPELINE for twin in BOTH}
    assert {name for name, is_untrained in found.items() if not is_untrained} == {"safety", "safety-lora"}


def test_another_model_has_untrained_ones_alone(tmp_path: Path, shipped: Path) -> None:
    other = write_tiny_llama(tmp_path / "other")
    assert all(served(demo_adapters(tmp_path / "state", other), other).values())


@pytest.mark.parametrize(("engine", "is_packaged"), [("vllm", True), ("simulated", True), ("simulated", False)])
def test_a_platform_that_names_no_adapters_serves_the_demos(
    smollm2: Path, shipped: Path, tmp_path: Path, engine: str, is_packaged: bool
) -> None:
    model = smollm2 if is_packaged else write_tiny_llama(tmp_path / "other")
    folder = default_adapters(Settings(engine=engine, state_dir=smollm2.parents[1]), model)
    assert folder == demo_adapters(smollm2.parents[1], model)
    assert served(folder, model)["safety"] is not is_packaged


def test_an_engine_with_a_model_of_ones_own_serves_no_random_weights(shipped: Path, tmp_path: Path) -> None:
    other = write_tiny_llama(tmp_path / "other")
    assert default_adapters(Settings(engine="vllm", state_dir=tmp_path / "state"), other) is None
    assert not (tmp_path / "state" / "demo-adapters").exists()


def test_what_is_measured_are_equal_twins_whatever_is_trained(smollm2: Path, shipped: Path) -> None:
    folder = twin_adapters(smollm2.parents[1], smollm2)
    assert all(served(folder, smollm2).values())
    configs = {path.parent.name: json.loads(path.read_text()) for path in folder.glob("*/adapter_config.json")}
    assert set(configs) == {f"{name}{twin}" for name in PIPELINE for twin in BOTH}
    for name in PIPELINE:
        assert configs[name] == configs[f"{name}-lora"] | {
            "alora_invocation_tokens": configs[name]["alora_invocation_tokens"]
        }
        weights = [(folder / f"{name}{twin}" / "adapter_model.safetensors").read_bytes() for twin in BOTH]
        assert weights[0] == weights[1]
    assert folder != demo_adapters(smollm2.parents[1], smollm2)


def test_what_is_there_is_kept_what_is_old_is_replaced_and_what_is_anothers_is_left(
    smollm2: Path, shipped: Path
) -> None:
    state = smollm2.parents[1]
    folder = demo_adapters(state, smollm2)
    copied = (folder / "safety" / "adapter_model.safetensors").stat().st_ino
    demo_adapters(state, smollm2)
    assert (folder / "safety" / "adapter_model.safetensors").stat().st_ino == copied
    # Another release ships other weights.
    write_untrained_adapters(shipped.parent / "next", smollm2, seed=8, names=("safety",))
    newer = (shipped.parent / "next" / "safety" / "adapter_model.safetensors").read_bytes()
    (shipped / "safety" / "adapter_model.safetensors").write_bytes(newer)
    (folder / "safety-lora" / STAMP_FILE).unlink()
    (folder / "safety-lora" / "note").write_text("my own")
    demo_adapters(state, smollm2)
    assert (folder / "safety" / "adapter_model.safetensors").read_bytes() == newer
    assert (folder / "safety-lora" / "note").exists()
