"""The alert rules do what their tests say, and none is without a test."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from support.prometheus_server import OBSERVABILITY, tool

ROOT = Path(__file__).parents[2]
RULES = OBSERVABILITY / "rules"
ALERTS = re.findall(r"alert: (\w+)", (RULES / "aloraserve.yml").read_text())


def promtool(*arguments: str, folder: Path = RULES) -> subprocess.CompletedProcess[str]:
    return subprocess.run([tool("promtool"), *arguments], cwd=folder, capture_output=True, text=True, check=False)


def test_the_rules_pass_their_tests() -> None:
    done = promtool("test", "rules", "aloraserve.test.yml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_scrape_configuration_is_valid() -> None:
    done = promtool("check", "config", "prometheus.yml", folder=OBSERVABILITY)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_that_never_fires_fails_its_test(alert: str, tmp_path: Path) -> None:
    """So that each alert is tested to fire."""
    shutil.copytree(RULES, tmp_path / "rules")
    file = tmp_path / "rules" / "aloraserve.yml"
    groups = yaml.safe_load(file.read_text())
    (rule,) = [rule for group in groups["groups"] for rule in group["rules"] if rule.get("alert") == alert]
    rule["expr"] = f"({rule['expr']}) and absent(vector(1))"
    file.write_text(yaml.safe_dump(groups))
    _keep_tests_of(alert, tmp_path / "rules" / "aloraserve.test.yml")
    done = promtool("test", "rules", "aloraserve.test.yml", folder=tmp_path / "rules")
    assert done.returncode != 0, f"no test needs {alert}"


def _keep_tests_of(alert: str, file: Path) -> None:
    """Drop the tests of other alerts: some go over hours."""
    content = yaml.safe_load(file.read_text())
    for test in content["tests"]:
        test["alert_rule_test"] = [one for one in test["alert_rule_test"] if one["alertname"] == alert]
    content["tests"] = [test for test in content["tests"] if test["alert_rule_test"]]
    file.write_text(yaml.safe_dump(content))


def test_the_document_names_every_alert() -> None:
    document = (ROOT / "docs" / "reference" / "metrics.md").read_text()
    assert [alert for alert in ALERTS if f"`{alert}`" not in document] == []


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_leads_to_what_to_do(alert: str) -> None:
    groups = yaml.safe_load((RULES / "aloraserve.yml").read_text())["groups"]
    [rule] = [rule for group in groups for rule in group["rules"] if rule.get("alert") == alert]
    file, _, anchor = rule["annotations"]["runbook_url"].partition("#")
    assert (file, anchor) == ("docs/operate/runbooks.md", alert.lower())
    section = re.search(rf"^## {alert}\n(.+?)(?=^## |\Z)", (ROOT / file).read_text(), re.MULTILINE | re.DOTALL)
    assert section is not None, f"{alert} has no runbook"
    assert all(f"**{part}**" in section[1] for part in ("Means", "Look", "Do")), f"{alert}'s runbook lacks a part"


def test_a_runbook_is_of_an_alert_that_there_is() -> None:
    headings = re.findall(r"^## (\w+)$", (ROOT / "docs/operate/runbooks.md").read_text(), re.MULTILINE)
    assert sorted(headings) == sorted(ALERTS)
