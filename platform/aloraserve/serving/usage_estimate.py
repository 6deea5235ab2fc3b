"""Expected use of a call before it runs, from what its tenant's last calls used."""

from __future__ import annotations

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

    def demand(self, request: GenerationRequest, limits: TenantLimits, *, requests: int) -> Demand:
        """Return what a call is to take.

        Raises:
            LimitTooLowError: the prompt and one token per choice are more than a minute's tokens.
        """
        means = self._means.get(_tenant(request)) or _Means()
        sampling, prompt_tokens = request.sampling, request.prompt_tokens
        most = limits.tokens_per_minute or MAX_COST
        least = prompt_tokens + sampling.n
        if least > most:
            raise LimitTooLowError(
                f"the request needs {least} tokens at least, and its tenant may use {most} tokens per minute; "
                "a shorter prompt is needed"
            )
        output = min(means.output_tokens, sampling.max_tokens or means.output_tokens) * sampling.n
        uncached = min(round(prompt_tokens * means.uncached_share), limits.uncached_tokens_per_minute or MAX_COST)
        return Demand(requests, min(prompt_tokens + round(output), most), max(uncached, 1))

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
        means = self._means.get(_tenant(request)) or _Means()
        return min(means.call_s / places, LONGEST_WAIT_S)


def _tenant(request: GenerationRequest) -> str:
    return request.origin.caller.tenant or ""
