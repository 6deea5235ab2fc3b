"""A completion's text has the ids and keys that the tokenizer and the key space give it, asked about before or not."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest
from support.small_tokenizers import CORPUS, KINDS, small_tokenizer

from aloraserve.blocks import KeySpace
from aloraserve.serving.prompts.encoder import Encoder
from aloraserve.serving.prompts.text_cache import MIN_CHARACTERS, TextCache

SPACE = KeySpace("model", "tokenizer", 4)
TEXT = " ".join(CORPUS) * 4


class Counted:
    """Encodes each character as its number, and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, text: str) -> Sequence[int]:
        self.asked.append(text)
        return [ord(character) for character in text]


def cache_of(encode: Counted, max_tokens: int = 100_000, max_bytes: int = 1 << 20) -> TextCache:
    return TextCache(encode, SPACE, max_tokens=max_tokens, max_bytes=max_bytes)


@pytest.mark.parametrize("kind", KINDS)
def test_ids_and_keys_are_the_tokenizer_s_and_the_key_space_s(kind: str) -> None:
    tokenizer = small_tokenizer(kind)
    encoder = Encoder(tokenizer)
    cache = TextCache(lambda text: encoder.ids(text, special=True), SPACE, max_tokens=100_000)
    made, found = cache.tokenize(TEXT, "salt"), cache.find(TEXT, "salt")
    assert made == found
    assert list(made.ids) == tokenizer(TEXT)["input_ids"]
    assert list(made.keys) == SPACE.keys(made.ids, cache_salt="salt")


def test_a_text_is_found_as_a_whole_and_by_its_tenant_alone() -> None:
    cache = cache_of(Counted())
    cache.tokenize(TEXT, "acme")
    assert cache.find(TEXT, "acme") is not None
    for text, salt in ((TEXT, None), (TEXT, ""), (TEXT, "other"), (TEXT[:-1], "acme"), (TEXT + "x", "acme")):
        assert cache.find(text, salt) is None


def test_short_texts_and_those_that_no_context_holds_are_not_remembered() -> None:
    cache = cache_of(Counted(), max_tokens=MIN_CHARACTERS + 1)
    for length, is_kept in ((MIN_CHARACTERS - 1, False), (MIN_CHARACTERS, True), (MIN_CHARACTERS + 2, False)):
        text = "x" * length
        assert len(cache.tokenize(text, None).ids) == length
        assert (cache.find(text, None) is not None) is is_kept


def test_what_was_not_used_for_longest_goes_first() -> None:
    cache = cache_of(Counted(), max_bytes=40_000)
    cache.tokenize(TEXT, None)
    for number in range(100):
        cache.tokenize(f"{number} " + "y" * MIN_CHARACTERS, None)
        assert cache.find(TEXT, None) is not None
        assert cache.size_bytes <= 40_000
    assert cache.find("0 " + "y" * MIN_CHARACTERS, None) is None


def test_a_text_that_threads_make_at_once_counts_once() -> None:
    cache = cache_of(Counted())
    cache.tokenize(TEXT, None)
    alone = cache.size_bytes
    threads = [threading.Thread(target=cache.tokenize, args=(TEXT, None)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert cache.size_bytes == alone
