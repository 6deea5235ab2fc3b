"""What the chart gives Prometheus and Grafana, and whether they reach it."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import yaml
from support.chart_objects import COMPONENT, profile, ray_pods
from support.chart_values import SETS
from support.helm_tools import CHART, objects, of_kind, render
from support.prometheus_server import tool as prometheus_tool

OBSERVABILITY = Path(__file__).parents[3] / "deploy" / "observability"
SCALING = {"autoscaling": {"enabled": True}}


def test_dashboards_and_rules_are_those_of_the_repository(tmp_path: Path) -> None:
    found = profile("cpu")
    maps = [each for each in found if each["kind"] == "ConfigMap" and "dashboard" in each["metadata"]["name"]]
    shown = {name: yaml.safe_load(text) for each in maps for name, text in each["data"].items()}
    files = sorted((OBSERVABILITY / "dashboards").glob("*.json"))
    assert shown == {f"aloraserve-{file.name}": yaml.safe_load(file.read_text()) for file in files}
    rules = of_kind(found, "PrometheusRule")["spec"]
    assert rules == yaml.safe_load((OBSERVABILITY / "rules" / "aloraserve.yml").read_text())
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump(rules))
    done = subprocess.run([prometheus_tool("promtool"), "check", "rules", str(file)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_prometheus_takes_the_scrape_config_of_a_release_without_its_operator(tmp_path: Path) -> None:
    found = objects(render({"metrics": {"configMap": {"enabled": True}}}))
    data = of_kind(found, "ConfigMap", "r-aloraserve-prometheus")["data"]
    [job] = yaml.safe_load(data["scrape_configs.yml"])
    # Debian's Prometheus is built without Kubernetes.
    assert job.pop("kubernetes_sd_configs") == [{"role": "pod", "namespaces": {"names": ["models"]}}]
    config = {"scrape_configs": [job | {"static_configs": []}], "rule_files": ["aloraserve.yml"]}
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
    (tmp_path / "aloraserve.yml").write_text(data["aloraserve.yml"])
    command = [prometheus_tool("promtool"), "check", "config", "prometheus.yml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_pod_monitor_scrapes_each_process_of_a_pod_under_the_names_that_alerts_use() -> None:
    found = objects(render({"metrics": {"podMonitor": {"enabled": True}}}, CHART / "ci" / "gpu-values.yaml"))
    monitor = of_kind(found, "PodMonitor")["spec"]
    ports = [each["containerPort"] for each in ray_pods(found)["h100"]["spec"]["containers"][0]["ports"]]
    assert ports == list(range(9100, 9108))
    assert len(monitor["podMetricsEndpoints"]) == 8
    targets = {rule["targetLabel"] for rule in monitor["podMetricsEndpoints"][0]["relabelings"]}
    assert targets == {"job", "role", "process"}


def exported(found: list[dict[str, Any]]) -> dict[str, list[int]]:
    """Return the ports with metrics of each component's pods."""
    return {
        pod["metadata"]["labels"][COMPONENT]: [
            port["containerPort"]
            for port in pod["spec"]["containers"][0]["ports"]
            if port["name"].startswith("app-metrics")
        ]
        for pod in ray_pods(found).values()
    }


def test_the_autoscaler_is_scraped_on_the_head_under_the_role_that_it_has_elsewhere() -> None:
    metrics = {"metrics": {"podMonitor": {"enabled": True}, "configMap": {"enabled": True}}}
    found = objects(render(SCALING | metrics))
    assert exported(found) == {"head": [9100], "gateway": [9100], "engine": [9100]}
    assert exported(profile("cpu"))["head"] == []
    monitor = of_kind(found, "PodMonitor")["spec"]
    [chosen] = monitor["selector"]["matchExpressions"]
    assert set(chosen["values"]) == set(exported(found))
    [job] = yaml.safe_load(of_kind(found, "ConfigMap", "r-aloraserve-prometheus")["data"]["scrape_configs.yml"])
    renamed = {"regex": "head", "replacement": "autoscaler"}
    for rules in (monitor["podMetricsEndpoints"][0]["relabelings"], job["relabel_configs"]):
        assert any(renamed.items() <= rule.items() for rule in rules)


def test_an_autoscaler_that_nobody_scrapes_is_an_alert(tmp_path: Path) -> None:
    rules = of_kind(objects(render(SCALING | {"metrics": {"prometheusRule": {"enabled": True}}})), "PrometheusRule")
    [alert] = rules["spec"]["groups"][-1]["rules"]
    assert (alert["alert"], alert["expr"]) == (
        "AloraserveScalingUnseen",
        "absent(aloraserve_scaling_directory_known)",
    )
    assert "absent(" not in yaml.safe_dump(of_kind(profile("cpu"), "PrometheusRule"))
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump(rules["spec"]))
    done = subprocess.run([prometheus_tool("promtool"), "check", "rules", str(file)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_prometheus_reaches_the_gateways_that_list_what_it_scrapes() -> None:
    """Where the API is for some clients alone."""
    clients, rule = of_kind(profile("autoscaling"), "NetworkPolicy", "r-aloraserve-gateway")["spec"]["ingress"]
    assert [who["podSelector"]["matchLabels"] for who in rule["from"]] == [{"app.kubernetes.io/name": "prometheus"}]
    assert clients["from"] != rule["from"]
    assert rule["ports"] == [{"port": 8000, "protocol": "TCP"}]
    narrow = objects(render(SETS["narrow network policies"]))
    assert len(of_kind(narrow, "NetworkPolicy", "r-aloraserve-gateway")["spec"]["ingress"]) == 1
