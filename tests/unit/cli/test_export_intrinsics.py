"""``aloraserve export-intrinsics``: a folder for mellea from a folder of adapters."""

from __future__ import annotations

from pathlib import Path

import pytest
from mellea.backends.adapters import EmbeddedIntrinsicAdapter
from typer.testing import CliRunner

from aloraserve_services.cli.main import app
from aloraserve_services.models.untrained import write_untrained_adapters


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:Capability:UserWarning")
def test_mellea_reads_what_is_exported_and_the_rest_is_left_out_by_name(tmp_path: Path, model_path: Path) -> None:
    write_untrained_adapters(tmp_path / "adapters", model_path, names=("hallucination", "safety"))
    options = ["--model", str(model_path), "--adapters-dir", str(tmp_path / "adapters")]
    options += ["--state-dir", str(tmp_path / "state"), str(tmp_path / "library")]
    done = CliRunner().invoke(app, ["export-intrinsics", *options])
    assert done.exit_code == 0, done.output
    assert "left out: safety: its answers are not JSON" in done.output
    found = EmbeddedIntrinsicAdapter.from_model_directory(tmp_path / "library")
    assert {one.intrinsic_name: one.technology for one in found} == {
        "hallucination": "alora",
        "hallucination-lora": "lora",
    }
    again = CliRunner().invoke(app, ["export-intrinsics", *options])
    assert again.exit_code == 1
    assert "is there already" in again.output
