"""Sampled answers of the base model: as many as asked for, equal for equal seeds, never from a pickle."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.tiny_llama import write_tiny_llama
from transformers import AutoTokenizer

from aloraserve.errors import StartError
from aloraserve_services.intrinsics import sampling
from aloraserve_services.intrinsics.sampling import AnswerSampler
from aloraserve_services.training import base_weights

TEMPLATE = "{% for message in messages %}{{ message.content }}<|end|>{% endfor %}"
CHATS = [[{"role": "user", "content": text}] for text in ("a cat?", "a much longer question about cats")]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = write_tiny_llama(tmp_path / "model")
    tokens = {"eos_token": "<|end|>", "pad_token": "<|end|>", "chat_template": TEMPLATE}
    config = {"tokenizer_class": "PreTrainedTokenizerFast"} | tokens
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def test_each_conversation_gets_its_answers_and_equal_seeds_give_equal_ones(model: Path) -> None:
    first, again = (AnswerSampler(model, seed=1).answers(CHATS, 3) for _ in range(2))
    assert [len(answers) for answers in first] == [3, 3]
    assert len(set(first[0] + first[1])) > 1
    assert first == again


def test_weights_in_a_pickle_are_not_read(model: Path) -> None:
    [weights] = model.glob("*.safetensors")
    torch.save(load_file(weights), model / "pytorch_model.bin")
    weights.unlink()
    with pytest.raises(StartError, match="the base model in model cannot be loaded"):
        AnswerSampler(model, seed=1)


def test_nearly_without_temperature_they_are_the_greedy_answers(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Conversations of different lengths in one batch, beside transformers' own loop over each alone."""
    monkeypatch.setattr(sampling, "TEMPERATURE", 1e-6)
    # Weights of this size make answers depend on all of a prompt. In bfloat16 two tokens may be the likeliest.
    monkeypatch.setattr(base_weights, "chosen_dtype", lambda _: "float32")
    [weights] = model.glob("*.safetensors")
    larger = {name: 8 * tensor if tensor.dim() == 2 else tensor for name, tensor in load_file(weights).items()}
    save_file(larger, weights, metadata={"format": "pt"})
    chats = [[{"role": "user", "content": text}] for text in ("cats", "a dog and its house " * 4, "7 of 9", "Who?")]
    tokenizer, base = AutoTokenizer.from_pretrained(str(model)), base_weights.load_base(model, "float32")
    expected = []
    for chat in chats:
        prompt = tokenizer.apply_chat_template(chat, tokenize=False)
        ids = tokenizer(prompt, return_tensors="pt", add_special_tokens=False).input_ids
        made = base.generate(ids, do_sample=False, max_new_tokens=sampling.MAX_ANSWER_TOKENS)[0, ids.shape[1] :]
        expected.append(tokenizer.decode(made, skip_special_tokens=True).split("\n")[0].strip())
    answers = AnswerSampler(model, seed=1).answers(chats, 5)
    assert [set(found) for found in answers] == [{text} for text in expected]
    assert len(set(expected)) > 1
