"""How long a prefill takes: the model that replicas learn online and everyone else computes with."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PrefillModel:
    """Seconds to prefill the tokens from ``start`` to ``end`` of a prompt whose first ``start`` are cached::

        fixed_s + s_per_token * (end - start) + s_per_square_token * (end**2 - start**2) / 2

    The linear part is the weights' work on each token, the quadratic one attention's to all tokens before it.
    """

    fixed_s: float = 0.0
    s_per_token: float = 0.0
    s_per_square_token: float = 0.0

    def seconds(self, start: int, end: int) -> float:
        """Return the time to compute tokens ``start`` to ``end``; 0 if there are none."""
        if end <= start:
            return 0.0
        square = (end * end - start * start) / 2
        return self.fixed_s + self.s_per_token * (end - start) + self.s_per_square_token * square
