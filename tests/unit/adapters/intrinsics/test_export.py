"""The folder for mellea, read by mellea."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from granite_common.intrinsics import IntrinsicsResultProcessor
from mellea.backends.adapters import EmbeddedIntrinsicAdapter
from support.io_yaml import LIBRARY

from aloraserve.adapters import AdapterVersion
from aloraserve.adapters.intrinsics import IntrinsicSpec, read_intrinsic
from aloraserve.adapters.intrinsics.export import export_intrinsics, io_yaml_of


def version(name: str, spec: IntrinsicSpec | None, kind: Any = "alora") -> AdapterVersion:
    return AdapterVersion(name, kind, Path("/none"), 8, ("q_proj",), (1,), f"digest of {name}", intrinsic=spec)


def own(**output: Any) -> IntrinsicSpec | None:
    return read_intrinsic(None, {"output": output, "parameters": {"max_tokens": 4}})


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:Capability:UserWarning")
def test_mellea_reads_the_folder(tmp_path: Path) -> None:
    versions = [version(name, read_intrinsic(text)) for name, text in LIBRARY.items()]
    left_out = export_intrinsics(
        [
            *versions,
            version("digit", own(form="digit"), "lora"),
            version("plain", None),
            version("word", own(form="text")),
        ],
        tmp_path / "library",
    )
    found = {one.intrinsic_name: one for one in EmbeddedIntrinsicAdapter.from_model_directory(tmp_path / "library")}
    assert {*found} == {*LIBRARY, "digit"}
    assert found["hallucination"].config == yaml.safe_load(LIBRARY["hallucination"])
    assert (found["uncertainty"].technology, found["digit"].technology) == ("alora", "lora")
    assert [one.name for one in left_out] == ["word"]
    assert "not JSON" in left_out[0].reason
    assert [path.name for path in tmp_path.iterdir()] == ["library"]


def test_a_spec_of_our_own_says_the_same_as_an_io_yaml() -> None:
    for spec in (own(form="digit"), own(form="json", schema={"type": "object"})):
        assert spec is not None
        text = io_yaml_of(spec)
        again = read_intrinsic(text.encode())
        assert again is not None
        assert again.parameters == spec.parameters
        IntrinsicsResultProcessor(config_dict=yaml.safe_load(text))


def test_nothing_that_is_there_is_overwritten(tmp_path: Path) -> None:
    with pytest.raises(FileExistsError):
        export_intrinsics([], tmp_path)
