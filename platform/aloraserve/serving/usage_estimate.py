"""Expected use of a call before it runs, from what its tenant's last calls used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from aloraserve.errors import LimitTooLowError
from aloraserve.limits.base import MAX_COST, Demand
from aloraserve.serving.admission import CallUsage
from aloraserve.serving.request import GenerationRequest
from aloraserve.tenants.limits import TenantLimits

FIRST_OUTPUT_TOKENS = 256.0
"""Per choice, of a tenant that nothing is known of."""
WEIGHT = 0.1
"""Of the newest call in the means."""
MAX_TENANTS = 4096
LONGEST_WAIT_S = 60.0


@dataclass(slots=True)
class _Means:
    """Means of a tenant's last calls; before them a guess that refuses too early rather than too late."""

    output_tokens: float = FIRST_OUTPUT_TOKENS
    uncached_share: float = 1.0
    call_s: float = 1.0


class UsageEstimates:
    """See the module's docstring.

    A limit is taken from by these before a call runs and corrected when it has ended, so a wrong estimate lets through
    a little early or late, and changes nothing in the sum.
    """

    def __init__(self) -> None:
        self._means: dict[str, _Means] = {}

    def demand(self, calls: Sequence[GenerationRequest], limits: TenantLimits, *, requests: int) -> Demand:
        """Return what calls of one request are to take together.

        Raises:
            LimitTooLowError: the prompts and one token per choice are more than a minute's tokens.
        """
        most = limits.tokens_per_minute or MAX_COST
        least = sum(call.prompt_tokens + call.sampling.n for call in calls)
        if least > most:
            raise LimitTooLowError(
                f"the request needs {least} tokens at least, and its tenant may use {most} tokens per minute; "
                f"{'a shorter prompt is' if len(calls) == 1 else 'fewer or shorter prompts are'} needed"
            )
        tokens = sum(map(self._tokens, calls))
        uncached = sum(map(self._uncached, calls))
        most_uncached = limits.uncached_tokens_per_minute or MAX_COST
        return Demand(requests, min(tokens, most), min(max(uncached, 1), most_uncached))

    def _tokens(self, call: GenerationRequest) -> int:
        expected = self._of(call).output_tokens
        return call.prompt_tokens + round(min(expected, call.sampling.max_tokens or expected) * call.sampling.n)

    def _uncached(self, call: GenerationRequest) -> int:
        return round(call.prompt_tokens * self._of(call).uncached_share)

    def _of(self, call: GenerationRequest) -> _Means:
        return self._means.get(_tenant(call)) or _Means()

    def learn(self, request: GenerationRequest, usage: CallUsage, seconds: float) -> None:
        """Note what a call used, and how long it ran."""
        tenant = _tenant(request)
        # Whoever called last is the last to be forgotten.
        means = self._means.pop(tenant) if tenant in self._means else _Means()
        self._means[tenant] = means
        if len(self._means) > MAX_TENANTS:
            del self._means[next(iter(self._means))]
        means.output_tokens += WEIGHT * (usage.generated_tokens / request.sampling.n - means.output_tokens)
        share = usage.uncached_tokens / max(usage.prompt_tokens, 1)
        means.uncached_share += WEIGHT * (share - means.uncached_share)
        means.call_s += WEIGHT * (seconds - means.call_s)

    def place_s(self, request: GenerationRequest, places: int) -> float:
        """Return when one of a tenant's running requests has ended, as far as can be expected."""
        return min(self._of(request).call_s / places, LONGEST_WAIT_S)


def _tenant(request: GenerationRequest) -> str:
    return request.origin.caller.tenant or ""
