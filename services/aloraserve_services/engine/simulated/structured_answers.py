"""Answers of an engine without a model that must have a form: JSON, an expression, a choice or a grammar.

llguidance says which tokens may come next, as it does in vLLM; of those one is chosen by the answer's seed. Then the
text is tokenized as a tokenizer would, because a model writes words and not letters, and each token gets the ones that
were possible in its place as its alternatives: what reads probabilities of answers finds some that make sense.
"""

from __future__ import annotations

import codecs
import math
import random
from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np
from llguidance import LLMatcher, LLTokenizer
from numpy.typing import NDArray

from aloraserve.serving.engine_messages import TokenLogprob, TokenLogprobs
from aloraserve.serving.structures import fault_summary, grammar_of
from aloraserve.wire.sampling import SamplingSettings
from aloraserve.wire.structured import StructuredOutput
from aloraserve_services.engine.simulated.answer_words import LONGEST_ANSWER, Answer, AnswerWords, Word

FEW = 1_000
"""Tokens that are possible in a place where they are looked at one by one; more are possible in free text alone."""
_CLOSING = "}]"
_END_CHANCE = 0.5
_SURE, _LEAST_CHANCE, _NEXT = 0.5, 0.45, 0.6
_IMPOSSIBLE_LOGPROB = -12.0


class StructuredAnswer(Answer):
    """One choice's tokens, made beforehand; behind its end it goes on as a plain answer, which only a test asks for.

    Args:
        words: its tokens.
        logprobs: of each, as many alternatives as were asked for.
        plain: goes on behind the end.
        length: tokens after which it ends by itself.
    """

    def __init__(self, words: Sequence[Word], logprobs: Sequence[TokenLogprobs], plain: Answer, length: int) -> None:
        self._words = words
        self._logprobs = logprobs
        self._plain = plain
        self.length = length

    def word(self, index: int) -> Word:
        """Return the word at a position."""
        return self._words[index] if index < len(self._words) else self._plain.word(index)

    def logprobs(self, index: int, alternatives: int) -> TokenLogprobs:
        """Return the log-probability of the word at a position, and of some that could have been there."""
        return self._logprobs[index] if index < len(self._logprobs) else self._plain.logprobs(index, alternatives)


class StructuredAnswers:
    """Makes answers of a form. May be used by any number of threads.

    Args:
        tokenizer_file: the model's ``tokenizer.json``.
        words: for texts that are free.
    """

    def __init__(self, tokenizer_file: Path, words: AnswerWords) -> None:
        self._file = tokenizer_file
        self._free = words

    def answers(
        self, structured: StructuredOutput, plain: Sequence[Answer], sampling: SamplingSettings
    ) -> list[Answer]:
        """Return an answer in the form for each plain one, which is its seed.

        Raises:
            ValueError: the form cannot be compiled.
        """
        grammar = grammar_of(structured, is_compact=True)
        return [self._answer(grammar, answer, sampling) for answer in plain]

    def _answer(self, grammar: str, plain: Answer, sampling: SamplingSettings) -> Answer:
        rng = random.Random(plain.seed)  # noqa: S311
        limit = sampling.max_tokens or LONGEST_ANSWER
        ids, is_whole = self._generated(grammar, rng, min(limit, LONGEST_ANSWER))
        words = self._words(ids)
        text = "".join(word.text for word in words)
        usual = self._tokenizer.tokenize_str(text)
        logprobs: Sequence[TokenLogprobs] = ()
        if self._is_possible(grammar, usual):
            ids, words = usual, self._words(usual)
        if sampling.logprobs is not None:
            logprobs = self._all_logprobs(grammar, words, rng, sampling.logprobs)
        return StructuredAnswer(words, logprobs, plain, len(words) if is_whole else max(limit, len(words)) + 1)

    @cached_property
    def _tokenizer(self) -> LLTokenizer:
        return LLTokenizer(str(self._file))

    @cached_property
    def _special(self) -> NDArray[np.bool_]:
        tokenizer = self._tokenizer
        ends = set(tokenizer.eos_tokens)
        return np.array([n in ends or tokenizer.is_special_token(n) for n in range(tokenizer.vocab_size)])

    @cached_property
    def _words_free(self) -> NDArray[np.int64]:
        return np.array([word.token for word in self._free.words], dtype=np.int64)

    def _matcher(self, grammar: str) -> LLMatcher:
        matcher = LLMatcher(self._tokenizer, grammar, log_level=0)
        if matcher.is_error():
            raise ValueError(fault_summary(matcher.get_error()))
        return matcher

    def _generated(self, grammar: str, rng: random.Random, limit: int) -> tuple[list[int], bool]:
        """Return tokens of an answer, and whether it is whole."""
        matcher, text = self._matcher(grammar), ""
        ids: list[int] = []
        while len(ids) < limit and not matcher.is_stopped():
            chosen = matcher.compute_ff_tokens() or self._chosen(matcher, rng, text, len(ids) > limit // 2)
            if not chosen or matcher.try_consume_tokens(chosen) < len(chosen):
                break
            ids += chosen
            text = self._tokenizer.decode_str(ids[-4:])
        if matcher.is_error():
            raise ValueError(fault_summary(matcher.get_error()))
        return ids[:limit], len(ids) <= limit and (matcher.is_stopped() or matcher.is_accepting())

    def _chosen(self, matcher: LLMatcher, rng: random.Random, text: str, is_late: bool) -> list[int]:
        """Return the next token, none where the answer may end and does.

        Args:
            matcher: knows what is possible.
            rng: decides.
            text: the end of what there is.
            is_late: whether the answer should come to its end.
        """
        possible = self._possible(matcher)
        ends = matcher.is_accepting() and (is_late or rng.random() < _END_CHANCE)
        if not len(possible) or ends:
            return []
        if len(possible) > FEW:
            return [self._free_token(possible, rng, is_late or not text.endswith('"'))]
        options = self._options(possible)
        closing = [word for word in options if word.text in _CLOSING]
        # An object that has what it must have ends: a model does not think up properties.
        if closing and (is_late or closing[0].text == "}" or rng.random() < _END_CHANCE):
            return [closing[0].token]
        return [rng.choice(options).token] if options else [int(possible[0])]

    def _free_token(self, possible: NDArray[np.int64], rng: random.Random, may_close: bool) -> int:
        """Return a token of a free text: a word, or the quotation mark that ends it."""
        [quote] = self._tokenizer.tokenize_str('"')
        if may_close and quote in possible and rng.random() < _END_CHANCE:
            return int(quote)
        words = np.intersect1d(possible, self._words_free)
        return int(rng.choice(words if len(words) else possible))

    def _possible(self, matcher: LLMatcher) -> NDArray[np.int64]:
        """Return the ids of the tokens that may come next, special ones apart."""
        mask = np.unpackbits(np.frombuffer(matcher.compute_bitmask(), np.uint8), bitorder="little")
        allowed = mask[: len(self._special)].astype(bool) & ~self._special
        return np.flatnonzero(allowed)

    def _options(self, possible: Sequence[int] | NDArray[np.int64]) -> list[Word]:
        """Return the words that tokens stand for, without beginnings of others."""
        words = [Word(int(token), self._tokenizer.decode_str([int(token)])) for token in possible]
        texts = sorted(word.text for word in words)
        starts = {text for text, following in pairwise(texts) if following.startswith(text)}
        return [word for word in words if word.text not in starts and "\N{REPLACEMENT CHARACTER}" not in word.text]

    def _words(self, ids: Sequence[int]) -> list[Word]:
        """Return tokens with the text that each adds: parts of a character add nothing until it is whole."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        return [Word(token, decoder.decode(self._tokenizer.decode_bytes([token]))) for token in ids]

    def _is_possible(self, grammar: str, ids: Sequence[int]) -> bool:
        return self._matcher(grammar).validate_tokens(list(ids)) == len(ids)

    def _all_logprobs(self, grammar: str, words: Sequence[Word], rng: random.Random, count: int) -> list[TokenLogprobs]:
        matcher, found = self._matcher(grammar), []
        for word in words:
            found.append(self._logprobs(self._others(matcher, word, rng), word, rng, count))
            matcher.consume_token(word.token)
        return found

    def _others(self, matcher: LLMatcher, word: Word, rng: random.Random) -> list[Word]:
        """Return words that could have been in a word's place."""
        if matcher.is_stopped():
            return []
        possible = self._possible(matcher)
        if len(possible) > FEW:
            return [self._free.words[rng.randrange(len(self._free.words))] for _ in range(4)]
        return [other for other in self._options(possible) if not word.text.startswith(other.text)]

    def _logprobs(self, others: Sequence[Word], word: Word, rng: random.Random, count: int) -> TokenLogprobs:
        """Return a word's log-probability and its alternatives': the word is the likeliest, and all add up to 1."""
        chance = _SURE + _LEAST_CHANCE * rng.random() if others else 1.0
        shares = [_NEXT**rank for rank in range(len(others))]
        rest = (1 - chance) / sum(shares) if others else 0.0
        chosen = TokenLogprob(word.text, math.log(chance))
        rated = [TokenLogprob(other.text, math.log(share * rest)) for other, share in zip(others, shares, strict=True)]
        known = {word.text, *(other.text for other in others)}
        never = (other for other in self._free.words if other.text not in known)
        while len(rated) + 1 < count:
            rated.append(TokenLogprob(next(never).text, _IMPOSSIBLE_LOGPROB - len(rated)))
        return TokenLogprobs(chosen, tuple([chosen, *rated][:count]))
