"""Each call's last routing receipt, written as its attempts go."""

from __future__ import annotations

import time
from collections.abc import Mapping
from weakref import WeakKeyDictionary

from aloraserve.diagnosis.account import ReuseAccount
from aloraserve.routing.receipts import Answered, Outcome, Receipt, ReceiptRing
from aloraserve.serving.attempt import Attempt
from aloraserve.serving.generation import Generation
from aloraserve.serving.observers import CallObserver


class ReceiptWriter(CallObserver):
    """Keeps a receipt from the first chunk on, or from the end of a call that has none.

    Args:
        receipts: where they are kept.
    """

    def __init__(self, receipts: ReceiptRing) -> None:
        self._receipts = receipts
        self._written: WeakKeyDictionary[Attempt, Receipt] = WeakKeyDictionary()

    def first_token(self, generation: Generation) -> None:
        """See the contract."""
        attempt = generation.attempt
        answered = Answered(generation.cached_tokens, generation.ttft_s, *_shown(generation.reuse))
        self._written[attempt] = self._write(attempt, answered)

    def ended(self, attempt: Attempt, generation: Generation | None) -> None:
        """See the contract."""
        if generation is None:
            self._write(attempt, None)
        elif attempt.outcome is Outcome.CUT_SHORT:
            written = self._written[attempt]
            self._receipts.replace(written, written.cut_short())

    def _write(self, attempt: Attempt, answered: Answered | None) -> Receipt:
        request = attempt.request
        receipt = Receipt.of(request.id, request.call, attempt.placement, attempt.records, answered, at_s=time.time())
        self._receipts.add(receipt)
        return receipt


def _shown(reuse: ReuseAccount | None) -> tuple[Mapping[str, int], Mapping[str, int]]:
    if reuse is None:
        return {}, {}
    return reuse.ladder._asdict(), {cause.value: tokens for cause, tokens in reuse.missed.items()}
