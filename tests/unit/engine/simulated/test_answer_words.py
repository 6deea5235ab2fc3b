"""Simulated answers: real tokens of the tokenizer, decided by the prompt, ended as engines end them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from aloraserve.errors import SettingsError
from aloraserve.serving.engine_messages import EngineChunk
from aloraserve.wire.sampling import SamplingSettings
from aloraserve_services.engine.simulated.answer_words import LONGEST_ANSWER, SHORTEST_ANSWER, AnswerWords, Word
from aloraserve_services.engine.simulated.answer_writer import AnswerWriter

WORDS = AnswerWords([Word(number, f" {chr(97 + number)}x") for number in range(26)])
PROMPT = [5, 6, 7]


def written(tokens: int = 1, words: AnswerWords = WORDS, **sampling: Any) -> list[EngineChunk]:
    """Return an answer's chunks, ``tokens`` words at a time."""
    writer = AnswerWriter(0, words.answer(PROMPT, None, 0), SamplingSettings(**sampling), cached_tokens=2)
    chunks = []
    while not writer.is_finished:
        chunks += writer.write(tokens)
    assert list(writer.write(1)) == []
    return chunks


def text(chunks: list[EngineChunk]) -> str:
    return "".join(chunk.text for chunk in chunks)


def test_an_answer_depends_on_prompt_adapter_and_choice_alone() -> None:
    def start(*which: Any) -> list[Word]:
        answer = WORDS.answer(*which)
        return [answer.word(at) for at in range(20)]

    assert start(PROMPT, None, 0) == start(list(PROMPT), None, 0)
    different = [start(PROMPT, None, 0), start([5, 6, 8], None, 0), start(PROMPT, "safety", 0), start(PROMPT, None, 1)]
    assert len({tuple(one) for one in different}) == 4


def test_an_answer_ends_at_max_tokens_or_by_itself() -> None:
    short = written(max_tokens=24)
    assert [chunk.finish_reason for chunk in short] == [None] * 23 + ["length"]
    whole = written(max_tokens=100_000)
    assert SHORTEST_ANSWER <= sum(chunk.tokens for chunk in whole) <= LONGEST_ANSWER
    assert whole[-1].finish_reason == "stop"
    assert text(whole).startswith(text(short))


@pytest.mark.parametrize("tokens", [1, 3, 100])
def test_a_stop_string_ends_the_text_before_it_and_none_of_it_leaves(tokens: int) -> None:
    whole = text(written(max_tokens=30))
    stop = whole[40:47]
    chunks = written(tokens, max_tokens=30, stop=(stop, "never"))
    assert text(chunks) == whole[: whole.index(stop)]
    assert chunks[-1].finish_reason == "stop"


@pytest.mark.parametrize("sampling", [{}, {"max_tokens": 30}, {"max_tokens": 900, "ignore_eos": True}, {"stop": 7}])
def test_an_answer_s_length_is_known_before_it_is_written(sampling: dict[str, Any]) -> None:
    """The scheduler knows when the answer will end."""
    if "stop" in sampling:
        sampling = {"stop": (text(written(max_tokens=30))[40:47],)}
    writer = AnswerWriter(0, WORDS.answer(PROMPT, None, 0), SamplingSettings(**sampling))
    assert writer.length == sum(chunk.tokens for chunk in written(**sampling))


def test_what_was_kept_back_for_a_stop_string_comes_with_the_end() -> None:
    assert text(written(max_tokens=9, stop=("never to be found",))) == text(written(max_tokens=9))


def test_log_probabilities_come_only_where_they_were_asked_for() -> None:
    assert all(chunk.logprobs == () for chunk in written(max_tokens=3))
    for count in (0, 1, 3):
        for chunk in written(2, max_tokens=4, logprobs=count):
            assert [len(one.alternatives) for one in chunk.logprobs] == [count] * chunk.tokens
            assert "".join(one.chosen.token for one in chunk.logprobs) == chunk.text


def test_the_words_of_a_real_tokenizer_are_one_token_each_wherever_they_stand(model_path: Path, tokenizer: Any) -> None:
    words = AnswerWords.read(model_path)
    said = text(written(16, words, max_tokens=60))
    ids = words.tokens_of(said)
    assert len(words) > 1000
    assert tokenizer(said, add_special_tokens=False)["input_ids"] == ids
    assert tokenizer(f"<|im_start|>assistant\n{said}<|im_end|>")["input_ids"][-len(ids) - 1 : -1] == ids


def test_a_unigram_vocabulary_has_words_too(tmp_path: Path) -> None:
    pieces = [["<unk>", 0.0], ["▁", -1.0], ["▁house", -2.0], ["▁Tree", -2.0]]
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"vocab": pieces}}))
    assert AnswerWords.read(tmp_path).tokens_of(" house house") == [2, 2]


@pytest.mark.parametrize("content", [None, "no json", "[]", '{"model": {"vocab": {"Ab": 1}}}'])
def test_a_tokenizer_that_has_no_words_is_named(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(SettingsError, match=r"tokenizer\.json"):
        AnswerWords.read(tmp_path)


def test_a_text_of_other_words_is_not_an_answer() -> None:
    with pytest.raises(ValueError, match="' zebra' is none of the 26 words"):
        WORDS.tokens_of(" ax zebra")


def ended(**sampling: Any) -> tuple[str, str | None, int | str | None, int]:
    """Return an answer's text, why it ended, and its tokens."""
    chunks = written(**sampling)
    last = chunks[-1]
    tokens = sum(chunk.tokens for chunk in chunks)
    return "".join(chunk.text for chunk in chunks), last.finish_reason, last.stop_reason, tokens


def test_a_stop_token_ends_an_answer_and_is_part_of_it_only_if_that_is_asked_for() -> None:
    answer = WORDS.answer(PROMPT, None, 0)
    first, second, third = (answer.word(at) for at in range(3))
    ends = {"stop_token_ids": (third.token,), "max_tokens": 9}
    assert ended(**ends) == (first.text + second.text, "stop", third.token, 3)
    assert ended(**ends, include_stop=True) == (first.text + second.text + third.text, "stop", third.token, 3)


def test_a_stop_string_may_stay_in_the_text() -> None:
    text, _, _, tokens = ended(max_tokens=3)
    stop = text[-2:]
    assert ended(max_tokens=9, stop=(stop,))[1:3] == ("stop", stop)
    assert ended(max_tokens=9, stop=(stop,), include_stop=True)[0].endswith(stop)
    assert tokens == 3


def test_no_answer_ends_before_its_least_length() -> None:
    answer = WORDS.answer(PROMPT, None, 0)
    assert ended(min_tokens=answer.length + 5)[3] == answer.length + 5
    first = answer.word(0)
    assert ended(min_tokens=6, max_tokens=8, stop_token_ids=(first.token,), stop=(first.text,))[3] > 6
