"""Figures of a tenant's use."""

from __future__ import annotations

from dataclasses import dataclass

from aloraserve.ledger.figures import Figures

DAY_S = 86_400
KEPT_DAYS = 400
"""Days that can be asked for, today included."""
MAX_TENANTS = 4096
"""That a day keeps apart; those beyond are summed under :data:`~aloraserve.ledger.figures.OTHER`."""


@dataclass(slots=True)
class UsageFigures(Figures):
    """Sums over calls.

    Args:
        requests: answered; one for all calls that a request makes.
        refused: calls that a limit of the tenant's own refused.
        prompt_tokens: of answered calls.
        cached_tokens: of those, not prefilled.
        generated_tokens: of all choices, also of answers that were cut off.
    """

    requests: int = 0
    refused: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0

    @property
    def uncached_tokens(self) -> int:
        """Prompt tokens that were prefilled."""
        return max(0, self.prompt_tokens - self.cached_tokens)
