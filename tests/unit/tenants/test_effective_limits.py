"""Which limits hold for a caller."""

from __future__ import annotations

from aloraserve.tenants import Caller
from aloraserve.tenants.effective_limits import EffectiveLimits
from aloraserve.tenants.limits import NO_LIMITS, TenantLimits

DEFAULT = TenantLimits(requests_per_minute=60, concurrency=4)
LIMITS = EffectiveLimits({"ada": TenantLimits(requests_per_minute=600, weight=2.0)}, DEFAULT)


def of(tenant: str | None, **own: int) -> TenantLimits:
    return LIMITS.of(Caller(tenant, limits=TenantLimits(**own)))


def test_each_limit_is_the_first_that_is_set() -> None:
    assert of("bob") == of(None) == DEFAULT
    assert of("ada") == TenantLimits(requests_per_minute=600, concurrency=4, weight=2.0)
    assert of("ada", concurrency=1) == TenantLimits(requests_per_minute=600, concurrency=1, weight=2.0)


def test_a_record_that_sets_a_priority_alone_lifts_no_limit() -> None:
    assert of("bob", priority=5) == TenantLimits(requests_per_minute=60, concurrency=4, priority=5)


def test_without_any_there_are_none() -> None:
    assert EffectiveLimits().of(Caller("bob")) == NO_LIMITS
