"""Exported adapters on llama.cpp's engine: what it answers as PEFT does, and where it does not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.llama_cpp_server import IS_INSTALLED, LlamaCpp, llama_cpp
from support.peft_reference import answers

from aloraserve.adapters import AdapterReader, BaseShape
from aloraserve_services.models.gguf_export.export import export_gguf
from aloraserve_services.models.untrained import invocation_text, write_untrained_adapters

pytestmark = pytest.mark.skipif(not IS_INSTALLED, reason="xllamacpp has no wheel for this machine")

BASE = "smollm2"
ADAPTERS = ("safety", "safety-lora", "uncertainty")
EARLY = "-early"
"""Suffix of an aLoRA for PEFT that begins one token before its invocation."""
TURNS = (
    "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
    "<|im_start|>user\nHow do I bake bread at home? Please tell me in a few short sentences.<|im_end|>\n"
    "<|im_start|>assistant\nMix flour, water, salt and yeast, let it rise, and bake it for 40 minutes.<|im_end|>\n"
    "<|im_start|>user\nAnd how long do I let it rise?<|im_end|>\n"
)
ANSWER = "<|im_start|>assistant\n"
CLOSE = 0.01
"""Difference of log-probabilities that both engines' rounding stays below."""


@pytest.fixture(scope="module")
def adapters_dir(tmp_path_factory: pytest.TempPathFactory, model_path: Path) -> Path:
    folder = tmp_path_factory.mktemp("adapters")
    write_untrained_adapters(folder, model_path, names=("safety", "uncertainty"))
    return folder


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory, adapters_dir: Path, model_path: Path) -> Iterator[LlamaCpp]:
    reader = AdapterReader(base=BaseShape.read(model_path))
    versions = [reader.read(name, adapters_dir / name) for name in ADAPTERS]
    folder = tmp_path_factory.mktemp("exported") / "gguf"
    export_gguf(folder, (BASE, model_path), versions, stored="f32")
    with llama_cpp(folder, BASE, ADAPTERS) as running:
        yield running


@pytest.fixture(scope="module")
def prompts(tokenizer: Any) -> dict[str, list[int]]:
    """The prompt of each adapter, and of the base model, by its name."""
    texts = {BASE: TURNS + ANSWER} | {name: TURNS + invocation_text(name.removesuffix("-lora")) for name in ADAPTERS}
    return {name: tokenizer.encode(text) for name, text in texts.items()}


@pytest.fixture(scope="module")
def peft(adapters_dir: Path, model_path: Path, prompts: dict[str, list[int]], tokenizer: Any) -> dict[str, Any]:
    """PEFT's answers by adapter, with those of aLoRAs that begin one token early."""
    before = tokenizer.encode(TURNS)[-1]
    for name in ("safety", "uncertainty"):
        early = shutil.copytree(adapters_dir / name, adapters_dir / f"{name}{EARLY}")
        config = json.loads((early / "adapter_config.json").read_text())
        config["alora_invocation_tokens"].insert(0, before)
        (early / "adapter_config.json").write_text(json.dumps(config))
    calls = [*prompts.items(), *((f"{name}{EARLY}", prompts[name]) for name in ("safety", "uncertainty"))]
    found = answers(model_path, adapters_dir, calls, base=BASE, max_tokens=3)
    return {name: answer for (name, _), answer in zip(calls, found, strict=True)}


def test_llama_cpp_reads_a_text_as_the_platforms_tokenizer_does(engine: LlamaCpp, tokenizer: Any) -> None:
    for text in (TURNS + ANSWER, "Hello  12 wörld's 3.14\n\n\tdef f(x):  return 100%", "  two  spaces 7  8"):
        assert engine.token_ids(text) == tokenizer.encode(text)


@pytest.mark.parametrize("name", [BASE, "safety-lora"])
def test_the_base_model_and_a_lora_answer_as_with_peft(
    engine: LlamaCpp, prompts: dict[str, list[int]], peft: dict[str, Any], name: str
) -> None:
    found = engine.answer(prompts[name], None if name == BASE else name)
    assert found["tokens"] == peft[name]["tokens"]
    assert found["logprobs"] == pytest.approx(peft[name]["logprobs"], abs=CLOSE)


@pytest.mark.parametrize("name", ["safety", "uncertainty"])
def test_an_alora_answers_alike_and_is_adapted_from_one_token_before_its_invocation(
    engine: LlamaCpp, prompts: dict[str, list[int]], peft: dict[str, Any], name: str
) -> None:
    found = engine.answer(prompts[name], name)
    assert found["tokens"] == peft[name]["tokens"]
    assert found["logprobs"] == pytest.approx(peft[f"{name}{EARLY}"]["logprobs"], abs=CLOSE)
    assert found["logprobs"] != pytest.approx(peft[name]["logprobs"], abs=CLOSE)


def test_aloras_reuse_the_base_models_tokens_and_loras_do_not(
    engine: LlamaCpp, prompts: dict[str, list[int]], tokenizer: Any
) -> None:
    shared = len(tokenizer.encode(TURNS)) - 1
    engine.answer(prompts[BASE], reuses=True)
    for name in ("safety", "uncertainty"):
        again = engine.answer(prompts[name], name, reuses=True)
        assert again["reused"] == shared
        assert again["logprobs"] == pytest.approx(engine.answer(prompts[name], name)["logprobs"], abs=CLOSE)
        engine.answer(prompts[BASE], reuses=True)
    assert engine.answer(prompts["safety-lora"], "safety-lora", reuses=True)["reused"] == 0


def test_a_base_call_after_an_adapters_reads_adapted_tokens_as_its_own(
    engine: LlamaCpp, prompts: dict[str, list[int]]
) -> None:
    fresh = engine.answer(prompts[BASE])
    engine.answer(prompts["safety-lora"], "safety-lora", reuses=True)
    found = engine.answer(prompts[BASE], reuses=True)
    assert found["reused"] > 0
    assert found["logprobs"] != pytest.approx(fresh["logprobs"], abs=CLOSE)


def test_an_alora_reads_what_another_adapted_as_the_base_models(
    engine: LlamaCpp, prompts: dict[str, list[int]], tokenizer: Any
) -> None:
    judged = prompts["safety"] + tokenizer.encode("Y<|im_end|>\n" + invocation_text("uncertainty"))
    fresh = engine.answer(judged, "uncertainty")
    engine.answer(prompts["safety"], "safety", max_tokens=1, reuses=True)
    found = engine.answer(judged, "uncertainty", reuses=True)
    assert found["reused"] >= len(prompts["safety"])
    assert found["logprobs"] != pytest.approx(fresh["logprobs"], abs=CLOSE)


def test_without_its_invocation_an_alora_is_switched_off_unsaid(
    engine: LlamaCpp, prompts: dict[str, list[int]]
) -> None:
    assert engine.answer(prompts[BASE], "safety") == engine.answer(prompts[BASE])
    # The search does not begin again at a token that ended a match: the last one twice hides the invocation.
    hidden = prompts["safety"] + prompts["safety"][-1:]
    assert engine.answer(hidden, "safety") == engine.answer(hidden)


def test_two_aloras_in_one_call_are_refused(engine: LlamaCpp, prompts: dict[str, list[int]]) -> None:
    both = [{"id": 0, "scale": 1.0}, {"id": 2, "scale": 1.0}]
    with pytest.raises(httpx.HTTPStatusError, match="400"):
        engine.post("/completion", {"prompt": prompts["safety"], "n_predict": 1, "lora": both})
