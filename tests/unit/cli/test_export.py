"""``aloraserve export``: folders for other projects from a folder of adapters."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from mellea.backends.adapters import EmbeddedIntrinsicAdapter
from support.peft_adapters import write_peft_adapter
from support.tiny_llama import write_tiny_llama
from typer.testing import CliRunner

from aloraserve_services.cli.main import app
from aloraserve_services.models.untrained import write_untrained_adapters


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:Capability:UserWarning")
def test_mellea_reads_what_is_exported_and_the_rest_is_left_out_by_name(tmp_path: Path, model_path: Path) -> None:
    write_untrained_adapters(tmp_path / "adapters", model_path, names=("hallucination", "safety"))
    options = ["--model", str(model_path), "--adapters-dir", str(tmp_path / "adapters")]
    options += ["--state-dir", str(tmp_path / "state"), "--mellea", str(tmp_path / "library")]
    done = CliRunner().invoke(app, ["export", *options])
    assert done.exit_code == 0, done.output
    assert "left out: safety: its answers are not JSON" in done.output
    found = EmbeddedIntrinsicAdapter.from_model_directory(tmp_path / "library")
    assert {one.intrinsic_name: one.technology for one in found} == {
        "hallucination": "alora",
        "hallucination-lora": "lora",
    }
    again = CliRunner().invoke(app, ["export", *options])
    assert again.exit_code == 1
    assert "is there already" in again.output


def test_llama_cpp_gets_a_file_of_the_base_and_of_each_adapter_that_is_named(tmp_path: Path) -> None:
    model = write_tiny_llama(tmp_path / "tiny")
    write_untrained_adapters(tmp_path / "adapters", model, names=("safety", "uncertainty"))
    options = ["export", "--model", str(model), "--state-dir", str(tmp_path / "state"), "--gguf"]
    done = CliRunner().invoke(app, [*options, str(tmp_path / "out"), str(tmp_path / "adapters" / "safety")])
    assert done.exit_code == 0, done.output
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["safety.gguf", "tiny.gguf"]
    more = ["--adapters-dir", str(tmp_path / "adapters"), "--no-with-base"]
    done = CliRunner().invoke(app, [*options, str(tmp_path / "more"), *more])
    assert done.exit_code == 0, done.output
    names = {f"{name}{twin}.gguf" for name in ("safety", "uncertainty") for twin in ("", "-lora")}
    assert {path.name for path in (tmp_path / "more").iterdir()} == names


def test_an_adapter_that_is_named_and_cannot_be_used_is_an_error_and_nothing_is_written(tmp_path: Path) -> None:
    model = write_tiny_llama(tmp_path / "tiny")
    write_untrained_adapters(tmp_path, model, names=("safety",))
    bad = write_peft_adapter(tmp_path / "bad", use_dora=True)
    shutil.copytree(tmp_path / "safety", tmp_path / "other" / "safety")
    options = ["export", "--model", str(model), "--state-dir", str(tmp_path / "state")]
    gguf = ["--gguf", str(tmp_path / "out")]
    for arguments, code, said in (
        ([*gguf, str(bad)], 1, "the adapter 'bad': adapter_config.json has use_dora True; accepted: null or False"),
        ([*gguf, str(tmp_path / "safety"), str(tmp_path / "other" / "safety")], 2, "two of the folders have the same"),
        ([*gguf, "--mellea", str(tmp_path / "out")], 2, "name one folder to write"),
        ([], 2, "name one folder to write"),
        (gguf, 2, "name folders of adapters, or the folder that they lie in with --adapters-dir"),
    ):
        done = CliRunner().invoke(app, [*options, *arguments])
        assert done.exit_code == code, done.output
        assert said in done.output
        assert not (tmp_path / "out").exists()
