"""What the chart finds in a cluster: Secrets that it made earlier, and those that values name."""

from __future__ import annotations

import base64
import re
from typing import Any

import pytest
from support.helm_tools import CHART, RefusedError, objects, of_kind, render
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


THERE = {
    "mine": {"other": "x"},
    "redis": {"url": "redis://redis:6379"},
    "certificate": {"tls.crt": "x"},
    "whole": {"tls.crt": "x", "tls.key": "x"},
    "with-ca": {"tls.crt": "x", "tls.key": "x", "ca.crt": "x"},
}
GCS = {"redisAddress": "redis://redis:6379"}
MUTUAL = {"enabled": True, "clientCa": True, "secretName": "whole"}


def with_external(**values: Any) -> dict[str, Any]:
    """Return values with a Redis of the operator's own."""
    external = {"enabled": True, "secretName": "redis", **values}
    return {"redis": {"bundled": {"enabled": False}, "external": external}, "gcsFaultTolerance": GCS}


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
        (with_external(filesSecretName="nowhere"), 'redis.external.filesSecretName is "nowhere"'),
        (with_external(cellUrlsKey="urls"), 'redis.external.cellUrlsKey: the Secret "redis" has no key "urls"'),
        (
            with_external() | {"gcsFaultTolerance": GCS | {"username": {"secretName": "nowhere"}}},
            'gcsFaultTolerance.username.secretName is "nowhere"',
        ),
        (
            with_external() | {"gcsFaultTolerance": GCS | {"password": {"secretName": "mine"}}},
            'gcsFaultTolerance.password: the Secret "mine" has no key "password"',
        ),
        ({"tls": {"enabled": True, "secretName": "certificate"}}, 'tls: the Secret "certificate" has no key "tls.key"'),
        ({"tls": MUTUAL}, 'tls: the Secret "whole" has no key "ca.crt"'),
        (
            {"tls": MUTUAL | {"secretName": "with-ca", "clientSecretName": "certificate"}},
            'tls.clientSecretName: the Secret "certificate" has no key "tls.key"',
        ),
        (
            {"metrics": {"scrapeConfig": {"enabled": True, "keySecret": {"name": "nowhere"}}}},
            'metrics.scrapeConfig.keySecret.name is "nowhere"',
        ),
        ({"tests": {"keySecret": {"name": "nowhere"}}}, 'tests.keySecret.name is "nowhere"'),
        ({"loadtest": {"enabled": True, "keySecret": {"name": "mine"}}}, 'the Secret "mine" has no key "key"'),
        ({"image": {"pullSecrets": [{"name": "nowhere"}]}}, 'image.pullSecrets[0].name is "nowhere"'),
    ],
)
def test_a_secret_that_is_not_there_is_named_before_anything_is_made(values: dict[str, Any], fault: str) -> None:
    with cluster_with(THERE) as cluster, pytest.raises(RefusedError) as refused:
        render(values, cluster=cluster)
    assert fault in str(refused.value)


def test_a_secret_that_is_there_is_used() -> None:
    with cluster_with({"mine": {"auth_token": "x"}}) as cluster:
        found = objects(render({"rayAuth": {"secretName": "mine"}}, cluster=cluster))
    assert of_kind(found, "RayService")["spec"]["rayClusterConfig"]["authOptions"]["secretName"] == "mine"


def test_every_secret_of_the_values_is_looked_for() -> None:
    """What `values.yaml` adds is a row of the check's list, too."""
    paths = re.findall(r"`([\w.]+[sS]ecret(?:Name|\.name))`", (CHART / "README.md").read_text())
    listed = (CHART / "templates" / "_check.tpl").read_text()
    assert len(paths) >= 13
    assert [path for path in paths if f'(list "{path}" ' not in listed] == []
