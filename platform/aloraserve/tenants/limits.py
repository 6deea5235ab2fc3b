"""How much a tenant may ask for, and how urgent it is."""

from __future__ import annotations

from typing import Annotated

import msgspec

MAX_AMOUNT = 10**12
MAX_WEIGHT = 1000.0
MAX_PRIORITY = 1000

Amount = Annotated[int, msgspec.Meta(ge=1, le=MAX_AMOUNT)]


class TenantLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Limits of a tenant over all gateways; None: no limit.

    Args:
        requests_per_minute: that begin.
        tokens_per_minute: of prompts and answers.
        uncached_tokens_per_minute: of prompts that have to be computed, and of answers.
        concurrency: requests at once.
        weight: its share beside other tenants' where engines are short.
        priority: of its calls where a request does not say; lower goes first, as in vLLM.
    """

    requests_per_minute: Amount | None = None
    tokens_per_minute: Amount | None = None
    uncached_tokens_per_minute: Amount | None = None
    concurrency: Amount | None = None
    weight: Annotated[float, msgspec.Meta(gt=0, le=MAX_WEIGHT)] = 1.0
    priority: Annotated[int, msgspec.Meta(ge=-MAX_PRIORITY, le=MAX_PRIORITY)] = 0


NO_LIMITS = TenantLimits()
