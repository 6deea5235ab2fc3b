"""Two tenants on one platform: each finds its own conversations again, and never the other's."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest

BASE = "SmolLM2-135M-Instruct"
KEYS = {"acme": "acme-key-0123456789", "other": "other-key-0123456789", "limited": "limited-key-0123456789"}
LIMITS = {"limited": {"requests_per_minute": 1, "tokens_per_minute": 100_000, "weight": 2}}
MESSAGES = [{"role": "user", "content": "Which ferry calls at the old pier on a Sunday? " * 12}]

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def shared(start: Callable[..., Any]) -> Iterator[Any]:
    """A platform of two tenants, beside the one that other tests use."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("ALORASERVE_API_KEYS", json.dumps(KEYS))
        environment.setenv("ALORASERVE_LIMITS", json.dumps(LIMITS))
        with start(own_state=True) as running:
            yield running


def as_tenant(platform: Any, name: str) -> Any:
    return dataclasses.replace(platform, api_key=KEYS[name])


def test_without_a_key_nothing_is_disclosed(shared: Any) -> None:
    for path in ("/v1/models", "/v1/replicas"):
        assert shared.http.get(path).status_code == 401
    with pytest.raises(openai.AuthenticationError) as refused:
        shared.chat(BASE, MESSAGES)
    assert refused.value.code == "invalid_api_key"


def test_a_tenant_reuses_its_own_blocks_and_no_other_s(shared: Any) -> None:
    """The gateway's salted keys are those that the engine's events lead to, and a stranger meets neither."""
    acme, other = as_tenant(shared, "acme"), as_tenant(shared, "other")
    first = acme.chat(BASE, MESSAGES)
    assert first.cached_tokens == 0

    def found() -> bool:
        return "holds" in acme.chat("safety", MESSAGES).reason

    shared.wait_until(found, 30, "the tenant's own blocks in the directory")
    judged = acme.chat("safety", MESSAGES)
    assert judged.replica == first.replica
    assert judged.cached_tokens >= 128
    stranger = other.chat("safety", MESSAGES)
    assert stranger.cached_tokens == 0
    assert stranger.reason == "least loaded, no prefix anywhere"


def test_a_tenant_over_its_limit_is_refused_and_sees_what_it_used(shared: Any) -> None:
    limited = as_tenant(shared, "limited")
    asked: dict[str, Any] = {"model": BASE, "messages": MESSAGES, "max_tokens": 2}
    answered = limited.openai.chat.completions.with_raw_response.create(**asked)
    assert answered.headers["x-ratelimit-limit-requests"] == "1"
    assert answered.headers["x-ratelimit-remaining-requests"] == "0"
    assert 0 < int(answered.headers["x-ratelimit-remaining-tokens"]) < 100_000
    with pytest.raises(openai.RateLimitError) as refused:
        limited.openai.chat.completions.create(**asked)
    assert refused.value.code == "rate_limit_exceeded"
    assert 1 <= int(refused.value.response.headers["retry-after"]) <= 60

    def use() -> dict[str, Any]:
        headers = {"authorization": f"Bearer {limited.api_key}"}
        [tenant] = shared.http.get("/v1/usage?days=2", headers=headers).json()["tenants"]
        assert tenant["tenant"] == "limited"
        return dict(tenant["total"])

    shared.wait_until(lambda: use()["requests"] == 1, 30, "the call in the ledger")
    assert use() | {"cached_tokens": 0, "uncached_tokens": 0} == {
        "requests": 1,
        "refused": 1,
        "prompt_tokens": answered.parse().usage.prompt_tokens,
        "cached_tokens": 0,
        "uncached_tokens": 0,
        "generated_tokens": 2,
    }
