"""What Helm says after an install."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest
from support.chart_values import SETS
from support.helm_tools import CHART, tool

TLS_SCRAPED = {
    "tls": {"enabled": True, "secretName": "tls"},
    "metrics": {"scrapeConfig": {"enabled": True, "keySecret": {"name": "key"}}},
}
SCALING = {"autoscaling": {"enabled": True}}


def notes(values: dict[str, Any]) -> str:
    """Return what Helm says after an install."""
    command = [tool("helm"), "install", "r", str(CHART), "--namespace", "models", "--dry-run=client", "--values", "-"]
    done = subprocess.run(command, input=json.dumps(values), text=True, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.rpartition("NOTES:")[2]


def test_the_notes_have_the_number_of_gateways_that_there_will_be() -> None:
    assert "2 gateways, and engines" in notes({})
    assert "2 to 4 gateways, and engines" in notes(SCALING)


@pytest.mark.parametrize(
    ("values", "remedy"),
    [
        ({"gateway": {"replicas": 1}}, "gateway.replicas=2"),
        ({"autoscaling": {"enabled": True, "minGateways": 1}}, "autoscaling.minGateways=2"),
        ({"gateway": {"replicas": 1}, "rollout": {"gatewaySurgePercent": 100}}, None),
        ({}, None),
    ],
)
def test_the_notes_say_when_an_update_leaves_no_gateway(values: dict[str, Any], remedy: str | None) -> None:
    text = notes(values)
    assert ("calls fail meanwhile" in text) == (remedy is not None)
    assert remedy is None or remedy in text


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("mutual TLS", ["`helm test` has none"]),
        ("mutual TLS with clients", []),
        ("TLS and a ScrapeConfig", ["set metrics.scrapeConfig.tlsConfig"]),
    ],
)
def test_the_notes_say_who_lacks_a_certificate(case: str, words: list[str]) -> None:
    text = notes(SETS.get(case, TLS_SCRAPED))
    assert [hint for hint in ("`helm test` has none", "set metrics.scrapeConfig.tlsConfig") if hint in text] == words
