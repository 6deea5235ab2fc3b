"""One choice of a simulated answer: words into chunks, with stop strings and log-probabilities as engines do."""

from __future__ import annotations

from collections.abc import Iterator

from aloraserve.serving.engine_messages import EngineChunk
from aloraserve.wire.sampling import SamplingSettings
from aloraserve_services.engine.simulated.answer_words import Answer, Word


class AnswerWriter:
    """Writes a choice until ``max_tokens``, a stop string or its own end.

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
        most = sampling.max_tokens or answer.length
        self._most = most if sampling.ignore_eos else min(answer.length, most)
        # What may be the beginning of a stop string is kept back.
        self._hold = max((len(stop) for stop in sampling.stop), default=1) - 1
        self._text = ""
        self._sent = 0
        self.length = self._length()

    def write(self, tokens: int) -> Iterator[EngineChunk]:
        """Yield one chunk with up to ``tokens`` more words, nothing once the answer is finished."""
        if self.is_finished:
            return
        begin = len(self.token_ids)
        words = [self._answer.word(at) for at in range(begin, min(begin + tokens, self.length))]
        end, finish_reason = self._add(words)
        text, self._sent = self._text[self._sent : end], max(end, self._sent)
        self.is_finished = finish_reason is not None
        count = self._sampling.logprobs
        places = range(begin, begin + len(words))
        logprobs = () if count is None else tuple(self._answer.logprobs(at, count) for at in places)
        ids = tuple(word.token for word in words)
        yield EngineChunk(self._index, text, len(words), finish_reason, self.cached_tokens, logprobs, token_ids=ids)

    def _length(self) -> int:
        """Return how many tokens there are to the answer's end or to the one that completes a stop string."""
        if not self._sampling.stop:
            return self._most
        text = ""
        for at in range(self._most):
            searched = max(0, len(text) - self._hold)
            text += self._answer.word(at).text
            if any(text.find(stop, searched) >= 0 for stop in self._sampling.stop):
                return at + 1
        return self._most

    def _add(self, words: list[Word]) -> tuple[int, str | None]:
        """Take in words; return how much of the text may be sent and why the answer ends, if it does."""
        searched = max(0, len(self._text) - self._hold)
        self._text += "".join(word.text for word in words)
        self.token_ids += [word.token for word in words]
        found = [at for stop in self._sampling.stop if (at := self._text.find(stop, searched)) >= 0]
        if found:
            return min(found), "stop"
        if len(self.token_ids) < self._most:
            return max(len(self._text) - self._hold, 0), None
        ends_itself = self._most == self._answer.length and not self._sampling.ignore_eos
        return len(self._text), "stop" if ends_itself else "length"
