"""One choice of a simulated answer: words into chunks, with stop strings and log-probabilities as engines do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from aloraserve.serving.engine_messages import EngineChunk
from aloraserve.wire.sampling import SamplingSettings
from aloraserve_services.engine.simulated.answer_words import Answer, Word


class _End(NamedTuple):
    """Where an answer ends: after so many tokens, with so many characters of them (None: all), and why."""

    tokens: int
    characters: int | None
    finish_reason: str
    stop_reason: int | str | None


class AnswerWriter:
    """Writes a choice until ``max_tokens``, a stop string, a stop token or its own end.

    Args:
        index: of the choice.
        answer: its words.
        sampling: how long it may be, what ends it and what to report.
        cached_tokens: prompt tokens that were not computed, if that is known.

    Attributes:
        cached_tokens: as chunks report it.
        length: tokens that it has in the end.
        token_ids: what was generated.
        is_finished: whether there is nothing more to write.
    """

    def __init__(self, index: int, answer: Answer, sampling: SamplingSettings, cached_tokens: int = 0) -> None:
        self.token_ids: list[int] = []
        self.is_finished = False
        self._index = index
        self._answer = answer
        self._sampling = sampling
        self.cached_tokens = cached_tokens
        own = max(answer.length, sampling.min_tokens)
        most = sampling.max_tokens or own
        self._most = most if sampling.ignore_eos else min(own, most)
        self._ends_itself = self._most == own and not sampling.ignore_eos
        # What may be the beginning of a stop string is kept back, unless it is part of the text in any case.
        longest = max((len(stop) for stop in sampling.stop), default=1)
        self._hold = 0 if sampling.include_stop else longest - 1
        self._text = ""
        self._sent = 0
        self._end = self._found_end()
        self.length = self._end.tokens

    def write(self, tokens: int) -> Iterator[EngineChunk]:
        """Yield one chunk with up to ``tokens`` more words, nothing once the answer is finished."""
        if self.is_finished:
            return
        begin = len(self.token_ids)
        words = [self._answer.word(at) for at in range(begin, min(begin + tokens, self.length))]
        self._text += "".join(word.text for word in words)
        self.token_ids += [word.token for word in words]
        self.is_finished = len(self.token_ids) >= self.length
        whole = len(self._text) if self._end.characters is None else self._end.characters
        end = whole if self.is_finished else max(len(self._text) - self._hold, 0)
        text, self._sent = self._text[self._sent : end], max(end, self._sent)
        count = self._sampling.logprobs
        places = range(begin, begin + len(words))
        yield EngineChunk(
            self._index,
            text,
            len(words),
            self._end.finish_reason if self.is_finished else None,
            self.cached_tokens,
            () if count is None else tuple(self._answer.logprobs(at, count) for at in places),
            token_ids=tuple(word.token for word in words),
            stop_reason=self._end.stop_reason if self.is_finished else None,
        )

    def _found_end(self) -> _End:
        """Return where the answer ends: at what stops it, or by itself, or at its limit."""
        sampling, text = self._sampling, ""
        for at in range(self._most if sampling.stop or sampling.stop_token_ids else 0):
            word = self._answer.word(at)
            before, text = len(text), text + word.text
            if at + 1 > sampling.min_tokens and (stopped := self._stopped(word, text, before)):
                return _End(at + 1, stopped[1], "stop", stopped[0])
        return _End(self._most, None, "stop" if self._ends_itself else "length", None)

    def _stopped(self, word: Word, text: str, before: int) -> tuple[int | str, int] | None:
        """Return what stops an answer at its last word, and the characters that are left of it.

        Args:
            word: the last one.
            text: so far.
            before: the characters before that word.
        """
        is_kept = self._sampling.include_stop
        if word.token in self._sampling.stop_token_ids:
            return word.token, len(text) if is_kept else before
        found = [
            (at, stop) for stop in self._sampling.stop if (at := text.find(stop, max(0, before - len(stop) + 1))) >= 0
        ]
        if not found:
            return None
        at, stop = min(found)
        return stop, at + len(stop) if is_kept else at
