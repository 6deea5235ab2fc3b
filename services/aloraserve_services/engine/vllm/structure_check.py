"""Whether vLLM's engine can hold answers to a form, found out before it gets the call.

vLLM compiles a form in a thread of its engine. What llguidance cannot compile with the vocabulary, or cannot follow
behind the first token, ends as an empty answer there. So it is compiled here first, in a thread of the replica.
"""

from __future__ import annotations

import asyncio
from functools import cached_property, lru_cache
from typing import Any

import llguidance.hf
import numpy as np
from llguidance import LLMatcher, LLTokenizer

from aloraserve.serving.structures import fault_summary, grammar_of
from aloraserve.wire.structured import StructuredOutput

REMEMBERED = 256


class StructureCheck:
    """Compiles forms as the engine will.

    Args:
        tokenizer: the engine's.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._fault = lru_cache(REMEMBERED)(self._compile)

    async def fault(self, structured: StructuredOutput | None) -> str:
        """Return why an answer cannot have a form, an empty string if it can."""
        return "" if structured is None else await asyncio.to_thread(self._fault, structured)

    @cached_property
    def _vocabulary(self) -> LLTokenizer:
        return llguidance.hf.from_tokenizer(self._tokenizer)

    def _compile(self, structured: StructuredOutput) -> str:
        try:
            matcher = LLMatcher(self._vocabulary, grammar_of(structured), log_level=0)
        except ValueError as error:
            return fault_summary(str(error))
        # What may come after the first token is where the possibilities are many.
        mask = np.unpackbits(np.frombuffer(matcher.compute_bitmask(), np.uint8), bitorder="little")
        if not matcher.is_stopped() and mask.any():
            matcher.consume_token(int(mask.argmax()))
        return fault_summary(matcher.get_error()) if matcher.is_error() else ""
