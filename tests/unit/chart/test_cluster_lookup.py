"""What the chart finds in a cluster: Secrets that it made earlier, and those that values name."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from support.helm_tools import RefusedError, objects, of_kind, render
from support.kubernetes_lookup import cluster_with

MADE = {
    "r-aloraserve-ray-token": {"auth_token": "token-of-the-first-install"},
    "r-aloraserve-key-pepper": {"pepper": "pepper-of-the-first-install"},
    "r-aloraserve-redis": {"password": "password-of-the-first-install"},
}


def secrets(text: str) -> dict[str, dict[str, str]]:
    """Return the Secrets of rendered YAML, decoded."""
    found = [each for each in objects(text) if each["kind"] == "Secret"]
    return {
        each["metadata"]["name"]: {key: base64.b64decode(value).decode() for key, value in each["data"].items()}
        for each in found
    }


def test_an_upgrade_keeps_the_secrets_that_the_install_made() -> None:
    """Another token would cut Ray's nodes off from each other, another pepper would end every key."""
    with cluster_with(MADE) as cluster:
        assert secrets(render(cluster=cluster)) == MADE


def test_an_install_makes_secrets_that_nobody_can_guess() -> None:
    with cluster_with({}) as cluster:
        first, second = (secrets(render(cluster=cluster)) for _ in range(2))
    assert first.keys() == second.keys() == MADE.keys()
    values = [value for made in (first, second) for secret in made.values() for value in secret.values()]
    assert len(set(values)) == len(values) == 6
    assert all(len(value) == 48 for value in values)


def named(**secrets: dict[str, Any]) -> dict[str, Any]:
    """Return values that name Secrets for keys."""
    return {"keys": secrets}


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        (
            named(apiKeys={"secretName": "nowhere"}),
            'keys.apiKeys.secretName is "nowhere": there is no such Secret in the namespace models',
        ),
        (named(pepper={"secretName": "mine"}), 'keys.pepper: the Secret "mine" has no key "pepper"'),
        ({"rayAuth": {"secretName": "mine"}}, 'rayAuth: the Secret "mine" has no key "auth_token"'),
        ({"tls": {"enabled": True, "secretName": "nowhere"}}, 'tls.secretName is "nowhere": there is no such Secret'),
        ({"model": {"hfToken": {"secretName": "nowhere"}}}, 'model.hfToken.secretName is "nowhere"'),
        ({"redis": {"bundled": {"secretName": "mine"}}}, 'redis.bundled: the Secret "mine" has no key "password"'),
    ],
)
def test_a_secret_that_is_not_there_is_named_before_anything_is_made(values: dict[str, Any], fault: str) -> None:
    with cluster_with({"mine": {"other": "x"}}) as cluster, pytest.raises(RefusedError) as refused:
        render(values, cluster=cluster)
    assert fault in str(refused.value)


def test_a_secret_that_is_there_is_used() -> None:
    with cluster_with({"mine": {"auth_token": "x"}}) as cluster:
        found = objects(render({"rayAuth": {"secretName": "mine"}}, cluster=cluster))
    assert of_kind(found, "RayService")["spec"]["rayClusterConfig"]["authOptions"]["secretName"] == "mine"
