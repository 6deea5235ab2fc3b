"""Sampled answers of the base model: as many as asked for, equal for equal seeds, never from a pickle."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.tiny_llama import write_tiny_llama

from aloraserve.errors import StartError
from aloraserve_services.intrinsics.sampling import AnswerSampler

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
