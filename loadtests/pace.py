"""How fast a platform computes one call: what a load test's duration is estimated from."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import NamedTuple

from loadtests.texts import TextSource
from loadtests.transport import Transport

PROBE_WORDS = (450, 1900)
"""Of generated text, about as many tokens: lengths that the quick test plays."""
PROBE_TOKENS = 8
MIN_GROWTH, MAX_GROWTH = 1.0, 2.0
"""Prefill is linear at the least and, where attention is all that counts, quadratic."""
MIN_S = 1e-4


class Prefill(NamedTuple):
    """One measured prefill.

    Args:
        tokens: of a prompt of which no replica held anything.
        seconds: to the first token.
    """

    tokens: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Pace:
    """Times of a call on a platform that does nothing else.

    Args:
        short: prefill of a short prompt.
        long: prefill of a longer one.
        token_s: between two tokens of an answer.
    """

    short: Prefill
    long: Prefill
    token_s: float

    @property
    def growth(self) -> float:
        """The power of a prompt's length that its prefill grows with."""
        found = math.log(self.long.seconds / self.short.seconds) / math.log(self.long.tokens / self.short.tokens)
        return min(MAX_GROWTH, max(MIN_GROWTH, found))

    def prefill_s(self, tokens: float) -> float:
        """Return what a prompt takes of which no replica holds anything."""
        near = self.short if tokens < self.long.tokens else self.long
        return near.seconds * float(tokens / near.tokens) ** self.growth

    def __str__(self) -> str:
        """Return the rates, for a line of progress."""
        short, long = (f"{found.tokens / found.seconds:,.0f} tokens/s" for found in (self.short, self.long))
        return (
            f"prefill: {short} for {self.short.tokens:,} tokens, {long} for {self.long.tokens:,}; "
            f"{self.token_s * 1000:.0f} ms per generated token"
        )


def measure_pace(transport: Transport) -> Pace:
    """Let the base model answer two prompts that no replica has seen; return how long that took.

    Raises:
        CallFailedError: the platform does not answer.
    """
    base = transport.models()[0]
    # An earlier measurement may be in the cache of a platform that runs on.
    texts = TextSource(time.time_ns())
    # The first call of all waits for what is loaded or compiled with it.
    transport.chat(base, [{"role": "user", "content": "Hello."}], 2)
    prefills, decode_s = [], 0.0
    for words in PROBE_WORDS:
        name = f"pace/{words}"
        messages = [texts.opening(name), {"role": "user", "content": texts.document(name, words)}]
        answer = transport.chat(base, messages, PROBE_TOKENS)
        prefills.append(Prefill(answer.prompt_tokens, max(MIN_S, answer.ttft_s)))
        decode_s += answer.e2e_s - answer.ttft_s
    return Pace(prefills[0], prefills[1], decode_s / (len(PROBE_WORDS) * (PROBE_TOKENS - 1)))
