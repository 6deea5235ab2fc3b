"""A prompt's ids and keys are those of the whole prompt, whatever was tokenized before."""

from __future__ import annotations

import re
import threading
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.character_tokenizer import CharacterTokenizer
from support.small_tokenizers import CORPUS, CUT, KINDS, ODD, small_tokenizer

from aloraserve.blocks import KeySpace
from aloraserve.serving.prompts.encoder import Encoder, pattern_of
from aloraserve.serving.prompts.prompt_cache import PromptCache

SPACE = KeySpace("model", "tokenizer", 4)
PARTS = [
    *CUT,
    *(token.content for token in ODD),
    *CORPUS,
    " ",
    "  ",
    "\n",
    "x",
    " word",
    "Hello",
    "<|en",
    "d|>",
    "<unk>",
]
texts = st.lists(st.sampled_from(PARTS) | st.text(max_size=12), max_size=12).map("".join)


def cache_of(tokenizer: Any, max_tokens: int = 100_000, **options: Any) -> PromptCache:
    return PromptCache(Encoder(tokenizer), SPACE, max_tokens=max_tokens, **options)


def turn(role: str, text: str) -> str:
    return f"<|start|>{role}\n{text}<|end|>\n"


TALK = "".join(turn(role, text) for role, text in zip(("system", "user", "assistant"), CORPUS, strict=True))


@pytest.mark.parametrize("odd", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None, max_examples=60)
@given(beginnings=st.lists(texts, min_size=1, max_size=4), endings=st.lists(texts, min_size=2, max_size=4))
def test_ids_and_keys_are_those_of_the_whole_prompt(
    kind: str, odd: bool, beginnings: list[str], endings: list[str]
) -> None:
    tokenizer = small_tokenizer(kind, odd=odd)
    cache = cache_of(tokenizer)
    for beginning in beginnings:
        for ending in endings:
            prompt = beginning + ending
            ids, keys = cache.complete(cache.look_up(prompt, "salt"))
            assert ids == tokenizer(prompt, add_special_tokens=False)["input_ids"]
            assert keys == SPACE.keys(ids, cache_salt="salt")[: len(keys)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_whole_text_is_encoded_as_the_tokenizer_does(kind: str) -> None:
    tokenizer = small_tokenizer(kind)
    encoder = Encoder(tokenizer)
    for text in (TALK, "", *CORPUS):
        assert encoder.ids(text, special=True) == tokenizer(text)["input_ids"]
        assert encoder.ids(text) == tokenizer(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "words"])
def test_a_conversation_s_next_turn_tokenizes_what_is_new(kind: str) -> None:
    cache = cache_of(small_tokenizer(kind))
    assert cache.look_up(TALK, None).new_characters == len(TALK)
    cache.complete(cache.look_up(TALK, None))
    found = cache.look_up(TALK + turn("user", "And?"), None)
    assert found.new_characters == len("\n" + turn("user", "And?"))
    _, keys = cache.complete(found)
    assert len(keys) > 10


def test_what_a_model_gives_for_unknown_words_ends_no_piece() -> None:
    """The ids of the tokens behind which texts are cut would not stand for these tokens."""
    cache = cache_of(small_tokenizer("words"))
    unknown = turn("user", "one unknown word after another, each of them as the end of a turn: qqq qqq qqq")
    cache.complete(cache.look_up(unknown, None))
    assert cache.look_up(unknown, None).new_characters == len(unknown)


def test_tokens_that_look_at_their_neighbours_cut_nothing() -> None:
    cuts = Encoder(small_tokenizer("byte-level", odd=True)).cuts
    assert set(CUT) <= set(cuts)
    assert not set(cuts) & {token.content for token in ODD}


def test_a_token_that_does_not_prove_itself_cuts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where ids depend on what stands far before."""
    monkeypatch.setattr(Encoder, "ids_after", lambda self, cut, text: [7, *self.ids(cut + text)[1:]])
    encoder = Encoder(small_tokenizer("byte-level"))
    assert (encoder.cuts, encoder.added) == ({}, None)


def test_a_tokenizer_that_splits_special_tokens_is_not_cut() -> None:
    tokenizer = small_tokenizer("byte-level")
    tokenizer.split_special_tokens = True
    try:
        encoder = Encoder(tokenizer)
        assert encoder.cuts == {}
        assert encoder.ids(TALK) == tokenizer(TALK, add_special_tokens=False)["input_ids"]
    finally:
        tokenizer.split_special_tokens = False


def test_a_tokenizer_in_python_is_asked_each_time() -> None:
    cache = cache_of(CharacterTokenizer())
    ids, keys = cache.complete(cache.look_up("abc", None))
    assert (ids, keys, cache.size_bytes) == ([97, 98, 99], [], 0)


def test_padding_and_truncation_of_a_tokenizer_file_are_not_for_prompts() -> None:
    tokenizer = small_tokenizer("unigram")
    tokenizer.backend_tokenizer.enable_truncation(3)
    tokenizer.backend_tokenizer.enable_padding(length=500)
    assert 10 < len(cache_of(tokenizer).complete(cache_of(tokenizer).look_up(TALK, None))[0]) < 500


def test_tenants_find_nothing_of_each_other() -> None:
    cache = cache_of(small_tokenizer("byte-level"))
    cache.complete(cache.look_up(TALK, "acme"))
    for other in ("acme2", "", None):
        assert cache.look_up(TALK, other).new_characters == len(TALK)
    assert cache.look_up(TALK, "acme").new_characters == 1


def test_a_conversation_goes_from_its_end() -> None:
    cache = cache_of(small_tokenizer("byte-level"), max_bytes=20_000)
    long = "".join(turn("user", f"Question {number}: " + "what else? " * 8) for number in range(12))
    cache.complete(cache.look_up(long, None))
    number = evicted = before = 0
    while evicted < 4:
        cache.complete(cache.look_up(turn("user", f"{number} is a question of another conversation: " * 3), None))
        evicted += cache.size_bytes < before + 500
        number, before = number + 1, cache.size_bytes
    assert 0 < cache.look_up(long, None).start < len(long)


def test_what_was_not_used_for_longest_goes_first() -> None:
    cache = cache_of(small_tokenizer("byte-level"), max_bytes=20_000)
    other = turn("system", "Another conversation that begins in another way, " * 3)
    cache.complete(cache.look_up(TALK, None))
    for number in range(200):
        cache.complete(cache.look_up(other + turn("user", f"Question {number}: " + "what else? " * 8), None))
        assert cache.size_bytes <= 20_000
    assert cache.look_up(TALK, None).new_characters == len(TALK)
    assert cache.look_up(other + "x", None).new_characters == 2


def test_a_prompt_that_no_context_holds_is_not_remembered() -> None:
    cache = cache_of(small_tokenizer("byte-level"), max_tokens=20)
    ids, _ = cache.complete(cache.look_up(TALK, None))
    assert len(ids) > 20
    assert cache.size_bytes == 0


def test_threads_may_share_a_cache() -> None:
    tokenizer = small_tokenizer("gpt-4")
    cache = cache_of(tokenizer, max_bytes=30_000)
    wrong: list[str] = []

    def converse(number: int) -> None:
        talk = TALK
        for step in range(60):
            talk += turn("user", f"Question {step} of {number % 2}, which is one of many: " + "words " * 10)
            ids, _ = cache.complete(cache.look_up(talk, None))
            if ids != tokenizer(talk, add_special_tokens=False)["input_ids"]:
                wrong.append(talk)

    threads = [threading.Thread(target=converse, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@given(
    words=st.lists(st.text("ab<|", min_size=1, max_size=4), min_size=1, max_size=6), text=st.text("ab<|", max_size=30)
)
def test_the_longest_word_is_found_at_each_place(words: list[str], text: str) -> None:

    longest_first = "|".join(map(re.escape, sorted(words, key=len, reverse=True)))
    assert re.findall(pattern_of(words), text) == re.findall(longest_first, text)
