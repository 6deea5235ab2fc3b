"""A model's own defaults are those that ``vllm serve`` takes; what no request may have is refused at the start."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from aloraserve.errors import SettingsError
from aloraserve.wire.sampling import NEUTRAL, SamplingDefaults
from aloraserve_services.models.generation_defaults import embedding_count, sampling_defaults


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "vocab_size": 320}))
    return tmp_path


def write(model: Path, **values: Any) -> None:
    (model / "generation_config.json").write_text(json.dumps(values))


def test_the_model_s_defaults_are_taken_unless_vllm_s_are_asked_for(model: Path) -> None:
    write(model, temperature=0.6, top_p=0.95, top_k=20, min_p=0.1, repetition_penalty=1.05, max_new_tokens=99)
    assert sampling_defaults(model, "auto") == SamplingDefaults(
        max_tokens=99, temperature=0.6, top_p=0.95, top_k=20, min_p=0.1, repetition_penalty=1.05
    )
    assert sampling_defaults(model, "vllm") == NEUTRAL


def test_a_model_that_says_nothing_has_none(model: Path) -> None:
    assert sampling_defaults(model, "auto") == NEUTRAL
    write(model, eos_token_id=[2, 0], do_sample=True)
    assert sampling_defaults(model, "auto") == NEUTRAL


@pytest.mark.parametrize("given", [{"temperature": 3.5}, {"top_k": 1.5}, {"top_p": 0}])
def test_a_default_that_no_request_may_have_is_named(model: Path, given: dict[str, Any]) -> None:
    write(model, **given)
    [name] = given
    with pytest.raises(SettingsError, match=f"has {name} .*, which no request may have"):
        sampling_defaults(model, "auto")


def test_a_model_has_as_many_embeddings_as_its_configuration_says(model: Path) -> None:
    assert embedding_count(model) == 320
    (model / "config.json").write_text(json.dumps({"text_config": {"vocab_size": 77}}))
    assert embedding_count(model) == 77
    assert embedding_count(model / "nowhere") is None
