"""Log-probabilities: texts and bytes of tokens join to the answer, and parts of characters are told apart."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest
from transformers.convert_slow_tokenizer import bytes_to_unicode

from aloraserve.wire.sampling import SamplingSettings
from aloraserve_services.engine.vllm.token_logprobs import LogprobReader, piece_bytes

LLAMA = "🦙".encode()
END = 0
PIECES = {END: "<|im_end|>", 1: "Hi"} | {
    2 + at: "".join(bytes_to_unicode()[byte] for byte in part)
    for at, part in enumerate((LLAMA[:2], LLAMA[2:], LLAMA[:3]))
}


class Tokenizer:
    """Of a few pieces."""

    all_special_ids = (END,)

    def __init__(self, pieces: Mapping[int, str], space: str) -> None:
        self._pieces = pieces
        self._space = space

    def get_vocab(self) -> dict[str, int]:
        return {piece: token for token, piece in self._pieces.items()} | {self._space: -1}

    def convert_ids_to_tokens(self, token: int) -> str:
        return self._pieces[token]


def step(**entries: tuple[int, str]) -> dict[int, Any]:
    """Return vLLM's entries of a position, by token: rank and text."""
    return {
        int(token.removeprefix("t")): SimpleNamespace(rank=rank, decoded_token=text, logprob=-float(rank))
        for token, (rank, text) in entries.items()
    }


@pytest.fixture
def reader() -> LogprobReader:
    return LogprobReader(Tokenizer(PIECES, "Ġ"))


def test_letters_of_a_sentencepiece_vocabulary_are_what_they_are() -> None:
    reader = LogprobReader(Tokenizer({END: "</s>", 1: "é", 2: "<0xE6>", 3: "Ġ"}, "▁"))
    choice = SimpleNamespace(
        stop_reason=None, token_ids=[1, 2, 3], logprobs=[step(t1=(1, "é")), step(t2=(1, "")), step(t3=(1, "Ġ"))]
    )
    tokens = reader.read(choice, SamplingSettings(logprobs=0))
    assert [bytes(token.chosen.utf8) for token in tokens] == ["é".encode(), b"\xe6", "Ġ".encode()]


def test_texts_and_bytes_of_an_answer_s_tokens_join_to_it(reader: LogprobReader) -> None:
    choice = SimpleNamespace(
        stop_reason=None,
        token_ids=[1, 2, 3, END],
        logprobs=[step(t1=(1, "Hi")), step(t2=(1, "")), step(t3=(1, "🦙")), step(t0=(1, "<|im_end|>"))],
    )
    tokens = reader.read(choice, SamplingSettings(logprobs=1))
    assert "".join(token.chosen.token for token in tokens) == "Hi🦙"
    assert bytes(byte for token in tokens for byte in token.chosen.utf8) == "Hi🦙".encode()
    assert [token.chosen.utf8 for token in tokens] == [[72, 105], list(LLAMA[:2]), list(LLAMA[2:]), []]
    assert tokens[-1].alternatives[0].token == "<|im_end|>", "as an alternative it has its name"


def test_alternatives_that_are_parts_of_characters_are_told_apart(reader: LogprobReader) -> None:
    choice = SimpleNamespace(stop_reason=None, token_ids=[1], logprobs=[step(t1=(1, "Hi"), t2=(2, ""), t4=(3, ""))])
    [token] = reader.read(choice, SamplingSettings(logprobs=3))
    assert [other.token for other in token.alternatives] == ["Hi", r"\xf0\x9f", r"\xf0\x9f\xa6"]
    assert [other.utf8 for other in token.alternatives[1:]] == [list(LLAMA[:2]), list(LLAMA[:3])]


def test_as_many_alternatives_as_were_asked_for(reader: LogprobReader) -> None:
    choice = SimpleNamespace(
        stop_reason=None, token_ids=[1], logprobs=[step(t1=(7, "Hi"), t0=(1, "<|im_end|>"), t2=(2, ""))]
    )
    assert [len(reader.read(choice, SamplingSettings(logprobs=count))[0].alternatives) for count in (0, 1, 2)] == [
        0,
        1,
        2,
    ]
    assert reader.read(SimpleNamespace(token_ids=[1], logprobs=None), SamplingSettings(logprobs=2)) == ()


@pytest.mark.parametrize(("piece", "raw"), [("<0xE6>", b"\xe6"), ("Ġhi", b" hi"), ("▁hi", None), ("日", None)])
def test_the_bytes_of_a_piece(piece: str, raw: bytes | None) -> None:
    assert piece_bytes(piece, byte_level=True) == raw
    assert piece_bytes(piece, byte_level=False) == (raw if piece.startswith("<") else None)
