"""Answers of an engine without a model: words of the tokenizer's own vocabulary, decided by the prompt."""

from __future__ import annotations

import hashlib
import json
import re
from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from aloraserve.errors import SettingsError
from aloraserve.serving.engine_messages import TokenLogprob, TokenLogprobs

MAX_WORDS = 4096
SHORTEST_ANSWER, LONGEST_ANSWER = 64, 256
"""Tokens after which an answer ends by itself, where ``max_tokens`` does not end it before."""
_CHOSEN_LOGPROB, _OTHER_LOGPROB = -0.1, -3.0
_SPACED = re.compile("[Ġ▁][a-z]{2,12}")
"""A whole word with the space before it, as byte-level BPE and SentencePiece write it."""


class Word(NamedTuple):
    """One token and its text."""

    token: int
    text: str


class AnswerWords:
    """Words that are one token each, whatever stands around them.

    So an answer that comes back as text in the conversation's next prompt has the same token ids there, and its
    blocks are found.

    Args:
        words: at least one.
    """

    def __init__(self, words: Sequence[Word]) -> None:
        if not words:
            raise ValueError("there are no words; at least one is needed")
        self._words = list(words)
        self._tokens = {word.text: word.token for word in words}

    @classmethod
    def read(cls, model_path: Path) -> AnswerWords:
        """Return the words with the lowest ids in a model's ``tokenizer.json``, without a tokenizer's library.

        Raises:
            SettingsError: there is no such file, or no such word in it.
        """
        path = model_path / "tokenizer.json"
        try:
            vocabulary = json.loads(path.read_text("utf-8"))["model"]["vocab"]
            # BPE's is a mapping, Unigram's a list of pieces with their scores.
            pieces = (
                vocabulary if isinstance(vocabulary, dict) else {piece[0]: at for at, piece in enumerate(vocabulary)}
            )
            spaced = sorted(
                Word(int(token), f" {piece[1:]}") for piece, token in pieces.items() if _SPACED.fullmatch(piece)
            )
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise SettingsError(f"{path} cannot be read as a tokenizer: {type(error).__name__}: {error}") from None
        if not spaced:
            raise SettingsError(f"{path} has no word with a space before it; a simulated engine answers with those")
        return cls(spaced[:MAX_WORDS])

    def __len__(self) -> int:
        return len(self._words)

    @property
    def words(self) -> Sequence[Word]:
        """All of them."""
        return self._words

    def tokens_of(self, text: str) -> list[int]:
        """Return the token ids of an answer's text.

        Raises:
            ValueError: it is not made of these words.
        """
        words = [f" {word}" for word in text.split()]
        try:
            return [self._tokens[word] for word in words]
        except KeyError as error:
            raise ValueError(f"{error.args[0]!r} is none of the {len(self)} words of a simulated answer") from None

    def text_of(self, numbers: Iterable[int]) -> str:
        """Return a text that is one token long for each number; equal numbers stand for equal words."""
        return "".join(self._words[number % len(self._words)].text for number in numbers)

    def answer(self, token_ids: Sequence[int], adapter: str | None, choice: int) -> Answer:
        """Return the answer to a prompt: equal prompts have equal ones, an adapter's differs from the base model's."""
        digest = hashlib.blake2b(array("I", token_ids).tobytes(), digest_size=16)
        digest.update(f"\0{adapter}\0{choice}".encode())
        return Answer(self._words, digest.digest())


class Answer:
    """One choice's words, made as they are asked for.

    Attributes:
        length: tokens after which it ends by itself.
        seed: of its words.
    """

    def __init__(self, words: Sequence[Word], seed: bytes) -> None:
        self._words = words
        self.seed = seed
        self._start = int.from_bytes(seed[:8], "big")
        self._step = int.from_bytes(seed[8:], "big") | 1
        self.length = SHORTEST_ANSWER + self._start % (LONGEST_ANSWER - SHORTEST_ANSWER + 1)

    def word(self, index: int) -> Word:
        """Return the word at a position (a Weyl sequence through the vocabulary)."""
        place = (self._start + index * self._step) % (1 << 64)
        return self._words[place * len(self._words) >> 64]

    def logprobs(self, index: int, alternatives: int) -> TokenLogprobs:
        """Return the log-probability of the word at a position, and of as many alternatives, itself the first."""
        chosen = TokenLogprob(self.word(index).text, _CHOSEN_LOGPROB)
        others = [
            TokenLogprob(self.word(index + other).text, _OTHER_LOGPROB - other) for other in range(1, alternatives)
        ]
        return TokenLogprobs(chosen, tuple([chosen, *others][:alternatives]))
