"""Accounts for the reuse of each call that is answered."""

from __future__ import annotations

import time
from collections.abc import Sequence

from aloraserve.blocks import BlockKey, KeySpace
from aloraserve.diagnosis.account import ReuseAccountant
from aloraserve.diagnosis.window import DiagnosisWindow
from aloraserve.serving.generation import Generation
from aloraserve.serving.observers import CallObserver
from aloraserve.serving.request import GenerationRequest

MAX_SALTED_TOKENS = 65_536
"""Of a plain LoRA's prompt, tokens that are hashed once more, as the base model's."""


class ReuseObserver(CallObserver):
    """Gives each generation its account, before other observers look at it; the first of them.

    Args:
        keyspace: of the fleet.
        window: sums the accounts up.
    """

    def __init__(self, keyspace: KeySpace, window: DiagnosisWindow) -> None:
        self._keyspace = keyspace
        self._window = window
        self._accountant = ReuseAccountant()

    def first_token(self, generation: Generation) -> None:
        """Account for an attempt that is answered."""
        request = generation.request
        generation.reuse = self._accountant.account(
            request.call,
            generation.attempt.placement,
            generation.replica,
            generation.cached_tokens,
            time.monotonic(),
            base_keys=self._base_keys(request, generation.cached_tokens),
        )

    def answered(self, generation: Generation) -> None:
        """Count a call."""
        assert generation.reuse is not None, "it had a first token"
        self._window.add(generation.reuse, time.time())

    def _base_keys(self, request: GenerationRequest, cached_tokens: int) -> Sequence[BlockKey] | None:
        """Return a plain LoRA's prompt in the base model's keys, if there is something to explain by them."""
        if request.kind != "lora" or request.prompt_tokens - cached_tokens <= self._keyspace.block_tokens:
            return None
        salt = request.origin.caller.cache_salt
        return self._keyspace.keys(request.token_ids[:MAX_SALTED_TOKENS], cache_salt=salt)
