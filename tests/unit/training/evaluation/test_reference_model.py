"""PEFT's answers with shared prefixes, against PEFT's own ``generate`` and forms decoded step by step."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from support.random_adapters import write_random_adapter
from transformers import AutoModelForCausalLM, AutoTokenizer

from aloraserve.adapters import AdapterReader, AdapterVersion, BaseShape
from aloraserve.wire.sampling import SamplingSettings
from aloraserve.wire.structured import StructuredOutput
from aloraserve_services.training.reference_model import ReferenceModel, ReferencePrompt

INVOCATION = "<|start|>safety\n"
FREE = SamplingSettings(max_tokens=6, temperature=0, logprobs=5)
LETTER = StructuredOutput("choice", choices=("Y", "N", "No"))


@pytest.fixture(scope="module")
def folders(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("adapters")
    kinds = {"alora": (INVOCATION, 1), "other": ("<|start|>other\n", 2), "lora": (None, 3)}
    return {
        name: write_random_adapter(
            root / name, tiny_base, invocation=text, intrinsic={"output": {"form": "text"}}, seed=seed
        )
        for name, (text, seed) in kinds.items()
    }


@pytest.fixture(scope="module")
def versions(tiny_base: Path, folders: dict[str, Path]) -> dict[str, AdapterVersion]:
    reader = AdapterReader(base=BaseShape.read(tiny_base))
    return {name: reader.read(name, folder) for name, folder in folders.items()}


@pytest.fixture(scope="module")
def tokenizer(tiny_base: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny_base)


@pytest.fixture
def model(tiny_base: Path, versions: dict[str, AdapterVersion], tokenizer: Any) -> ReferenceModel:
    return ReferenceModel(tiny_base, versions, tokenizer, dtype="float32")


def prompt(
    versions: dict[str, AdapterVersion], name: str | None, ids: Sequence[int], sampling: SamplingSettings = FREE
) -> ReferencePrompt:
    if name is None or not versions[name].invocation_ids:
        return ReferencePrompt(name, [*ids, 7, 8], None if name is None else 0, sampling)
    return ReferencePrompt(name, [*ids, *versions[name].invocation_ids], len(ids), sampling)


def generated(tiny_base: Path, folders: dict[str, Path], asked: ReferencePrompt) -> list[int]:
    """Return the tokens that stock PEFT generates, the end token left out."""
    model: Any = AutoModelForCausalLM.from_pretrained(tiny_base)
    if asked.adapter is not None:
        model = PeftModel.from_pretrained(model, folders[asked.adapter])
    ids = torch.tensor([list(asked.token_ids)])
    with torch.no_grad():
        out = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, do_sample=False, pad_token_id=0
        )
    end = model.generation_config.eos_token_id
    found: list[int] = out[0, ids.shape[1] :].tolist()
    return found[: found.index(end)] if end in found else found


def test_answers_are_those_of_peft_in_any_order(
    tiny_base: Path,
    folders: dict[str, Path],
    versions: dict[str, AdapterVersion],
    model: ReferenceModel,
    tokenizer: Any,
) -> None:
    long, short = (
        [10 + 7 * place % 180 for place in range(90)],
        [10 + 7 * place % 180 for place in range(40)] + [99, 98],
    )
    texts = set()
    for name, ids in (("alora", long), (None, long), ("lora", long), ("other", short), ("alora", short), (None, short)):
        asked = prompt(versions, name, ids)
        answer = model.answer(asked)
        assert answer.text == tokenizer.decode(generated(tiny_base, folders, asked), skip_special_tokens=True), name
        texts.add(answer.text)
    # The adapters say different things, else this shows nothing.
    assert len(texts) >= 4


def test_a_shared_prefix_is_the_base_model_s_and_computed_once(
    versions: dict[str, AdapterVersion], model: ReferenceModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: list[tuple[str | None, int]] = []
    whole = model._forward
    monkeypatch.setattr(
        model,
        "_forward",
        lambda asked, ids, *more: (computed.append((asked.adapter, len(ids))), whole(asked, ids, *more))[1],
    )
    ids = [10 + 3 * place % 180 for place in range(70)]
    single = SamplingSettings(max_tokens=1, temperature=0)
    for name in ("alora", "other", None, "lora"):
        model.answer(prompt(versions, name, ids, single))
    alora, other = (len(versions[name].invocation_ids) for name in ("alora", "other"))
    assert computed == [(None, 70), ("alora", alora), ("other", other), (None, 1), (None, 1), ("lora", 72)]


def test_an_answer_is_held_to_its_form_and_says_how_sure_it_is(
    versions: dict[str, AdapterVersion], model: ReferenceModel
) -> None:
    sampling = SamplingSettings(max_tokens=4, temperature=0, logprobs=5, structured=LETTER)
    answer = model.answer(prompt(versions, "alora", list(range(20, 60)), sampling))
    assert answer.text in LETTER.choices
    assert not answer.is_cut_off
    first = answer.logprobs[0]
    allowed = {one.token: one.logprob for one in first.alternatives if one.logprob > float("-inf")}
    assert set(allowed) == {"Y", "N"}
    assert answer.margins[0][1] == pytest.approx(abs(allowed["Y"] - allowed["N"]), abs=1e-4)


def test_stop_strings_and_limits_end_an_answer(versions: dict[str, AdapterVersion], model: ReferenceModel) -> None:
    asked = prompt(versions, "lora", list(range(20, 60)))
    text = model.answer(asked).text
    assert model.answer(asked).is_cut_off
    stopped = model.answer(
        ReferencePrompt("lora", asked.token_ids, 0, SamplingSettings(max_tokens=6, temperature=0, stop=(text[2:4],)))
    )
    assert (stopped.text, stopped.is_cut_off) == (text[: text.index(text[2:4])], False)


def test_a_repetition_penalty_of_the_model_s_own_counts(
    versions: dict[str, AdapterVersion], model: ReferenceModel, tiny_base: Path
) -> None:
    asked = prompt(
        versions, None, list(range(20, 60)), SamplingSettings(max_tokens=6, temperature=0, repetition_penalty=1.5)
    )
    stock: Any = AutoModelForCausalLM.from_pretrained(tiny_base)
    ids = torch.tensor([list(asked.token_ids)])
    with torch.no_grad():
        out = stock.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=6,
            do_sample=False,
            pad_token_id=0,
            repetition_penalty=1.5,
        )
    tokenizer = AutoTokenizer.from_pretrained(tiny_base)
    assert model.answer(asked).text == tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)
