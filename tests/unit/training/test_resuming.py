"""A training that is ended at any step, by whatever, goes on to the weights that it would have had."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from aloraserve.errors import SettingsError, StartError
from aloraserve.training import TrainingSpec
from aloraserve_services.training.progress import Silence
from aloraserve_services.training.run import train

MakeSpec = Callable[..., TrainingSpec]
EVERY_STEP = 0.0
KILLED = """
import os, signal, sys
from pathlib import Path
from aloraserve.training import TrainingSpec
from aloraserve_services.training.progress import Silence
from aloraserve_services.training.run import train

class Kill(Silence):
    def advance(self, phase, done, total, loss=None):
        if phase == "steps" and done == 7:
            os.kill(os.getpid(), signal.SIGKILL)

spec, out, state = map(Path, sys.argv[1:])
train(TrainingSpec.read(spec), out, state_dir=state, progress=Kill(), checkpoint_s=0.0)
"""


class At(Silence):
    """Does something at a step."""

    def __init__(self, step: int, act: Callable[[], Any]) -> None:
        self._step, self._act = step, act

    def advance(self, phase: str, done: int, total: int, loss: float | None = None) -> None:
        if phase == "steps" and done == self._step:
            self._act()


@pytest.fixture
def spec(made_spec: MakeSpec) -> TrainingSpec:
    """Two epochs of five steps, with dropout."""
    spec = made_spec()
    return spec.model_copy(update={"lora": spec.lora.model_copy(update={"dropout": 0.2})})


@pytest.fixture
def whole(spec: TrainingSpec, tmp_path: Path) -> dict[str, torch.Tensor]:
    """Weights of a training that nothing ended."""
    return weights(train(spec, tmp_path / "whole", state_dir=tmp_path / "state").folder)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(load_file(folder / "adapter_model.safetensors"))


def assert_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def left_over(tmp_path: Path) -> set[str]:
    return {path.name for path in tmp_path.iterdir() if path.name.startswith(".")}


def test_a_killed_training_goes_on(spec: TrainingSpec, tmp_path: Path, whole: dict[str, torch.Tensor]) -> None:
    spec.path.write_text(spec.path.read_text().replace("alpha: 8", "alpha: 8, dropout: 0.2"))
    spec = TrainingSpec.read(spec.path)
    arguments = [str(spec.path), str(tmp_path / "killed"), str(tmp_path / "state")]
    ended = subprocess.run([sys.executable, "-c", KILLED, *arguments], capture_output=True, text=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert not (tmp_path / "killed").exists()
    with pytest.raises(SettingsError, match=r"was ended at checkpoint-6; --resume goes on from there"):
        train(spec, tmp_path / "killed", state_dir=tmp_path / "state")
    steps: list[int] = []

    class Steps(Silence):
        def advance(self, phase: str, done: int, total: int, loss: float | None = None) -> None:
            steps.extend([done] if phase == "steps" else [])

    made = train(spec, tmp_path / "killed", state_dir=tmp_path / "state", progress=Steps(), resume=True)
    assert steps == [7, 8, 9, 10]
    assert_equal(weights(made.folder), whole)
    assert left_over(tmp_path) == set()


def test_a_full_disk_leaves_the_last_checkpoint_and_no_folder(
    spec: TrainingSpec, tmp_path: Path, whole: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    import safetensors.torch

    saved = safetensors.torch.save_file

    def full(tensors: Any, name: Any, *args: Any, **kwargs: Any) -> None:
        Path(name).write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def fill() -> None:
        monkeypatch.setattr(safetensors.torch, "save_file", full)

    out = tmp_path / "full"
    with pytest.raises(StartError, match=r"checkpoint of step 3 .*No space left.*that of step 2 is kept.*--resume"):
        train(spec, out, state_dir=tmp_path / "state", progress=At(3, fill), checkpoint_s=EVERY_STEP)
    assert not out.exists()
    assert {path.name for path in (tmp_path / ".full.training").iterdir()} == {"checkpoint-2", "run.json"}
    monkeypatch.setattr(safetensors.torch, "save_file", saved)
    assert_equal(weights(train(spec, out, state_dir=tmp_path / "state", resume=True).folder), whole)


def test_a_full_disk_at_the_end_leaves_the_training(
    spec: TrainingSpec, tmp_path: Path, whole: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    written = Path.write_text

    def full(path: Path, *args: Any, **kwargs: Any) -> int:
        if path.name == "README.md":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return written(path, *args, **kwargs)

    out = tmp_path / "full"
    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(StartError, match=r"cannot be written to .*No space left.*finish with --resume"):
        train(spec, out, state_dir=tmp_path / "state")
    assert not out.exists()
    monkeypatch.undo()
    assert_equal(weights(train(spec, out, state_dir=tmp_path / "state", resume=True).folder), whole)
    assert left_over(tmp_path) == set()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_what_there_is(
    spec: TrainingSpec, tmp_path: Path, whole: dict[str, torch.Tensor], number: signal.Signals
) -> None:
    out = tmp_path / "stopped"
    stop = At(7, lambda: os.kill(os.getpid(), number))
    made = train(spec, out, state_dir=tmp_path / "state", progress=stop)
    assert (made.stopped_by, made.steps, made.all_steps) == (number.name, 7, 10)
    assert "7 (stopped before its end); best by validation loss: 5" in (out / "README.md").read_text()
    made = train(spec, out, state_dir=tmp_path / "state", resume=True)
    assert made.stopped_by == ""
    assert_equal(weights(out), whole)


def test_a_signal_before_the_first_validation_leaves_a_checkpoint(spec: TrainingSpec, tmp_path: Path) -> None:
    stop = At(2, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(StartError, match="stopped by SIGTERM at step 2 of 10, before the first validation"):
        train(spec, tmp_path / "early", state_dir=tmp_path / "state", progress=stop)
    assert not (tmp_path / "early").exists()
    assert (tmp_path / ".early.training" / "checkpoint-2").is_dir()


def test_what_another_spec_began_is_not_gone_on_with(spec: TrainingSpec, tmp_path: Path) -> None:
    stop = At(2, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(StartError):
        train(spec, tmp_path / "early", state_dir=tmp_path / "state", progress=stop)
    other = spec.model_copy(update={"training": spec.training.model_copy(update={"learning_rate": 1e-4})})
    with pytest.raises(SettingsError, match="begun with another spec"):
        train(other, tmp_path / "early", state_dir=tmp_path / "state", resume=True)
    with pytest.raises(SettingsError, match=r"no training of .* to go on with"):
        train(spec, tmp_path / "nothing", state_dir=tmp_path / "state", resume=True)


def test_another_chat_template_is_not_gone_on_with(spec: TrainingSpec, tiny_base: Path, tmp_path: Path) -> None:
    base = shutil.copytree(tiny_base, tmp_path / "base")
    spec = spec.model_copy(update={"base": str(base)})
    stop = At(2, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(StartError):
        train(spec, tmp_path / "early", state_dir=tmp_path / "state", progress=stop)
    template = base / "chat_template.jinja"
    template.write_text(template.read_text().replace("m.role", "m.role + ' '"))
    with pytest.raises(SettingsError, match=r"another base model \(weights, tokenizer or chat template\)"):
        train(spec, tmp_path / "early", state_dir=tmp_path / "state", resume=True)


def test_checkpoints_have_no_pickles(spec: TrainingSpec, tmp_path: Path) -> None:
    stop = At(2, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(StartError):
        train(spec, tmp_path / "early", state_dir=tmp_path / "state", progress=stop)
    files = {path.suffix for path in (tmp_path / ".early.training").rglob("*") if path.is_file()}
    assert files == {".safetensors", ".json"}
