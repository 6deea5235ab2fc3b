"""Greedy decoding within a form, as the platform's engines do it: llguidance says which tokens may come next."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from aloraserve.serving.engine_messages import TokenLogprob, TokenLogprobs
from aloraserve.serving.structures import fault_summary, grammar_of
from aloraserve.wire.sampling import SamplingSettings
from aloraserve.wire.structured import StructuredOutput

if TYPE_CHECKING:
    import torch

Step = Callable[[int], "torch.Tensor"]
"""Returns the logits after one more token, shape (vocabulary,)."""


@dataclass(frozen=True, slots=True)
class GreedyAnswer:
    """An answer, and how sure each of its tokens was.

    Args:
        text: without special tokens, up to a stop string.
        is_cut_off: whether it ended at the most tokens that it may have.
        logprobs: of its tokens and of their alternatives, over what the form allowed.
        margins: of each token with its text, the end token included: by how many nats it won.
    """

    text: str
    is_cut_off: bool
    logprobs: tuple[TokenLogprobs, ...]
    margins: tuple[tuple[str, float], ...]


class GreedyDecoder:
    """Decodes answers. For one thread.

    Args:
        tokenizer: of the model.
        ends: tokens that end an answer.
    """

    def __init__(self, tokenizer: Any, ends: Collection[int]) -> None:
        self._tokenizer = tokenizer
        self._ends = frozenset(ends)
        self._vocabulary: Any = None

    def decode(
        self, prompt: Sequence[int], logits: torch.Tensor, step: Step, sampling: SamplingSettings
    ) -> GreedyAnswer:
        """Return the greedy answer.

        Args:
            prompt: its tokens, for a repetition penalty.
            logits: after the prompt, shape (vocabulary,).
            step: takes the chosen token, one after the other.
            sampling: form, stop strings, most tokens, alternatives to report.

        Raises:
            ValueError: the form cannot be compiled for this vocabulary.
        """
        matcher = None if sampling.structured is None else self._matcher(sampling.structured)
        ids: list[int] = []
        text, logprobs, margins = "", list[TokenLogprobs](), list[tuple[str, float]]()
        for number in range(sampling.max_tokens or 0):
            allowed = logits.float() if matcher is None else _masked(logits.float(), matcher)
            scores = self._penalized(allowed, [*prompt, *ids], sampling.repetition_penalty)
            (best, second), tokens = scores.topk(2)
            token = int(tokens[0])
            if token in self._ends:
                margins.append(("", float(best - second)))
                return GreedyAnswer(text, False, tuple(logprobs), tuple(margins))
            ids.append(token)
            whole = str(self._tokenizer.decode(ids, skip_special_tokens=True))
            margins.append((whole.removeprefix(text), float(best - second)))
            logprobs.append(self._logprobs(allowed, token, sampling.logprobs or 0))
            text = whole
            if (stop := next((stop for stop in sampling.stop if stop in text), None)) is not None:
                return GreedyAnswer(text[: text.index(stop)], False, tuple(logprobs), tuple(margins))
            if matcher is not None and (not matcher.consume_token(token) or matcher.is_stopped()):
                return GreedyAnswer(text, False, tuple(logprobs), tuple(margins))
            if number + 1 < (sampling.max_tokens or 0):
                logits = step(token)
        return GreedyAnswer(text, True, tuple(logprobs), tuple(margins))

    def _matcher(self, structured: StructuredOutput) -> Any:
        import llguidance.hf

        if self._vocabulary is None:
            self._vocabulary = llguidance.hf.from_tokenizer(self._tokenizer)
        matcher = llguidance.LLMatcher(self._vocabulary, grammar_of(structured), log_level=0)
        if matcher.is_error():
            raise ValueError(fault_summary(matcher.get_error()))
        return matcher

    def _penalized(self, logits: torch.Tensor, ids: Sequence[int], penalty: float) -> torch.Tensor:
        if penalty == 1.0:
            return logits
        import torch
        from transformers import RepetitionPenaltyLogitsProcessor

        scores: torch.Tensor = RepetitionPenaltyLogitsProcessor(penalty)(torch.tensor([ids]), logits[None])[0]
        return scores

    def _logprobs(self, logits: torch.Tensor, token: int, alternatives: int) -> TokenLogprobs:
        chances = logits.log_softmax(-1)
        likeliest, tokens = chances.topk(max(alternatives, 1))
        rated = [self._rated(int(other), float(chance)) for chance, other in zip(likeliest, tokens, strict=True)]
        return TokenLogprobs(self._rated(token, float(chances[token])), tuple(rated))

    def _rated(self, token: int, logprob: float) -> TokenLogprob:
        return TokenLogprob(str(self._tokenizer.decode([token], skip_special_tokens=True)), logprob, token_id=token)


def _masked(logits: torch.Tensor, matcher: Any) -> torch.Tensor:
    """Return logits with those of tokens that the form does not allow at minus infinity."""
    import torch

    bits = np.unpackbits(np.frombuffer(matcher.compute_bitmask(), np.uint8), bitorder="little")[: len(logits)]
    allowed = torch.zeros(len(logits), dtype=torch.bool)
    allowed[: len(bits)] = torch.from_numpy(bits.astype(bool))
    return logits.masked_fill(~allowed.to(logits.device), float("-inf"))
