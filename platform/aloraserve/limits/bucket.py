"""One bucket of tokens that fills steadily, in whole numbers: the same arithmetic as ``lua/take.lua``.

The generic cell rate algorithm (ITU-T I.371, annex A) in its virtual scheduling form: the state is the time at which
the bucket will be full. A token takes ``MINUTE_US / limit`` microseconds, which is not a whole number in general; the
remainder is kept in fractions of ``1 / limit``, so that nothing is lost by rounding.
"""

from __future__ import annotations

from dataclasses import dataclass

from aloraserve.limits.base import MAX_DEBT_US, MINUTE_US


@dataclass(frozen=True, slots=True)
class Bucket:
    """See the module's docstring.

    Args:
        limit: tokens per minute, and that it holds.
        full_at_us: when it is full.
        rest: of a microsecond more, in fractions of ``1 / limit``.
    """

    limit: int
    full_at_us: int = 0
    rest: int = 0

    def at(self, now_us: int, limit: int) -> Bucket:
        """Return the bucket as it is now, with a limit that may have changed: then as much stays used of it."""
        if self.full_at_us < now_us:
            return Bucket(limit, now_us)
        if self.limit == limit:
            return self
        used_us = (self.full_at_us - now_us) * self.limit // limit
        return Bucket(limit, now_us + min(used_us, MAX_DEBT_US))

    def moved(self, tokens: int) -> Bucket:
        """Return the bucket with tokens taken out, or put in if that is negative."""
        moved = self.full_at_us * self.limit + self.rest + tokens * MINUTE_US
        return Bucket(self.limit, *divmod(moved, self.limit))

    def wait_us(self, now_us: int) -> int:
        """Return how long until no more than a minute's worth is taken out."""
        return max(self.full_at_us + (self.rest > 0) - MINUTE_US - now_us, 0)
