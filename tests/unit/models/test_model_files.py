"""The base model: SmolLM2 becomes a folder an engine can load, once; other names are resolved or refused."""

from __future__ import annotations

import json
import multiprocessing
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from aloraserve.errors import SettingsError, StartError
from aloraserve_services.models import model_files
from aloraserve_services.models.model_files import SMOLLM2_NAME, ensure_smollm2, resolve_model


def test_the_folder_is_named_by_type_and_package_version(model_path: Path) -> None:
    assert model_path.name == "smollm2-135m-instruct-bfloat16-0.1.2"
    assert not [path for path in model_path.parent.iterdir() if path.is_dir() and path != model_path]


def test_the_config_is_of_the_type_asked_for(model_path: Path) -> None:
    config = json.loads((model_path / "config.json").read_text())
    assert config["dtype"] == "bfloat16"
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert json.loads((model_path / "generation_config.json").read_text())["eos_token_id"] == 2


def test_the_weights_are_finite_and_of_that_type(model_path: Path) -> None:
    import torch
    from safetensors import safe_open

    with safe_open(model_path / "model.safetensors", framework="pt") as file:
        for key in list(file.keys())[:8]:
            tensor = file.get_tensor(key)
            assert tensor.dtype == torch.bfloat16
            assert bool(torch.isfinite(tensor).all())


def test_the_tokenizer_keeps_special_tokens_whole(tokenizer: Any) -> None:
    assert tokenizer.encode("<|im_start|>", add_special_tokens=False) == [1]
    text = "<|im_start|>user\nhi there<|im_end|>\n"
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def test_the_chat_template_renders_turns(tokenizer: Any) -> None:
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == "<|im_start|>system\ns<|im_end|>\n<|im_start|>user\nu<|im_end|>\n<|im_start|>assistant\n"


def test_a_converted_model_is_not_converted_again(
    model_path: Path, state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_files, "_convert", lambda *_: pytest.fail("converted twice"))
    assert ensure_smollm2(state_dir, dtype="bfloat16") == model_path
    assert resolve_model("smollm2", state_dir, "bfloat16") == (SMOLLM2_NAME, model_path)


def test_a_conversion_cut_short_leaves_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def partial(_: Path, target: Path, __: str) -> None:
        (target / "config.json").write_text("{}")
        raise OSError("disk full")

    monkeypatch.setattr(model_files, "_convert", partial)
    said: list[str] = []
    with pytest.raises(StartError, match="disk full"):
        ensure_smollm2(tmp_path, dtype="float32", progress=said.append)
    assert said
    assert not [path for path in (tmp_path / "models").iterdir() if path.is_dir()]


def _ensure_with_a_fake_conversion(state_dir: str) -> None:
    def convert(_: Path, target: Path, dtype: str) -> None:
        with (Path(state_dir) / "conversions").open("a") as log:
            log.write("x")
        for name in model_files._FILES:
            (target / name).write_text(json.dumps({"dtype": dtype}))

    model_files._convert = convert  # type: ignore[assignment]
    ensure_smollm2(Path(state_dir), dtype="float32")


FILL = """
import sys
from pathlib import Path
from aloraserve.errors import StartError
from aloraserve_services.models import model_files

def convert(gguf, target, dtype):
    (target / "model.safetensors").write_bytes(bytes(8 << 20))

model_files._convert = convert
folder = Path(sys.argv[1])
if sys.argv[2] == "full":
    # Not even a folder has room.
    model_files.tempfile.tempdir = "/"
    try:
        (folder / "filling").write_bytes(bytes(8 << 20))
    except OSError:
        pass
try:
    model_files.ensure_smollm2(folder, dtype="float32")
except StartError as error:
    print(error)
print(sorted(path.name for path in folder.rglob("*") if "safetensors" in path.name or path.is_dir()))
"""


@pytest.mark.parametrize("state", ["nearly", "full"])
def test_a_full_disk_is_an_error_that_names_the_folder_and_leaves_nothing(state: str, tmp_path: Path) -> None:
    """A disk of a megabyte in a namespace of its own."""
    inner = f'mount -t tmpfs -o size=1m,nr_inodes=8 none {tmp_path} && exec "$0" -c "$1" {tmp_path} {state}'
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", inner, sys.executable, FILL]
    done = subprocess.run(command, text=True, capture_output=True, timeout=120)
    if "unshare" in done.stderr:
        pytest.skip("this machine makes no namespaces")
    assert done.returncode == 0, done.stderr
    message, left = done.stdout.strip().splitlines()
    assert str(tmp_path / "models") in message
    assert "No space left on device" in message
    assert left == "['models']"


def test_processes_that_start_together_convert_once(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    workers = [fork.Process(target=_ensure_with_a_fake_conversion, args=(str(tmp_path),)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 4
    assert (tmp_path / "conversions").read_text() == "x"


def test_a_folder_with_a_model_is_taken_as_it_is(model_path: Path, tmp_path: Path) -> None:
    assert resolve_model(str(model_path), tmp_path, "bfloat16") == (model_path.name, model_path)


@pytest.mark.parametrize("name", ["", "nowhere", "/nowhere/at/all", "../x", "org/model"])
def test_any_other_name_is_refused_offline(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(SettingsError, match="smollm2"):
        resolve_model(name, tmp_path, "bfloat16")


def test_a_hub_id_is_passed_on_when_the_hub_may_be_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    assert resolve_model("org/model", tmp_path, "bfloat16") == ("model", Path("org/model"))
