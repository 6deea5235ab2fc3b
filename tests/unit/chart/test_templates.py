"""Every profile and every set of values makes objects that Kubernetes, KubeRay and Serve know."""

from __future__ import annotations

import copy
import json
import subprocess
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from support.chart_values import SETS
from support.helm_tools import CHART, objects, of_kind, render, serve_config, tool
from support.kubernetes_schemas import VERSIONS, check_kubernetes, is_kubernetes, ray_service_faults
from support.serve_schema import ignored_keys

from aloraserve.settings import settings_from_arguments

PROFILES = sorted((CHART / "ci").glob("*-values.yaml"))
CASES = [path.name for path in PROFILES] + sorted(SETS)
OF_THE_POD = {"key_pepper_file", "tls_certificate", "tls_key", "tls_client_ca"}
"""Settings that name files of the pod."""


@cache
def rendered(case: str) -> str:
    """Return what the chart makes of a profile or a set of values."""
    return render(SETS[case]) if case in SETS else render({}, CHART / "ci" / case)


@cache
def parsed(case: str) -> list[dict[str, Any]]:
    """Return the objects of a case."""
    return objects(rendered(case))


def test_helm_finds_nothing_to_complain_of() -> None:
    profiles = [part for path in PROFILES for part in ("--values", str(path))]
    for values in ([], profiles[:2], profiles[2:4], profiles[4:6], profiles[6:8]):
        done = subprocess.run(
            [tool("helm"), "lint", "--strict", str(CHART), *values], capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_there_are_at_least_forty_sets() -> None:
    assert len(SETS) >= 40
    assert len(PROFILES) == 4


def shape(found: Any) -> Any:
    """Return the keys of an object, and the kinds of what they hold."""
    if isinstance(found, dict):
        return {key: shape(value) for key, value in found.items()}
    return [shape(each) for each in found] if isinstance(found, list) else type(found).__name__


def distinct(cases: Sequence[str], key: Callable[[Any], Any]) -> list[dict[str, Any]]:
    """Return the cases' objects, of those with an equal key the first alone."""
    kept: dict[str, dict[str, Any]] = {}
    for case in cases:
        for found in filter(is_kubernetes, parsed(case)):
            kept.setdefault(json.dumps(key(found), sort_keys=True), found)
    return list(kept.values())


@pytest.mark.parametrize("version", VERSIONS)
def test_every_kind_of_object_is_known_to_every_version_of_kubernetes(version: str) -> None:
    for found in distinct([path.name for path in PROFILES], shape):
        check_kubernetes(found, version)


def test_every_object_of_every_case_is_known_to_one_version_or_another() -> None:
    for number, found in enumerate(distinct(CASES, lambda found: found | {"metadata": shape(found["metadata"])})):
        if found["kind"] not in ("Secret", "ConfigMap"):
            check_kubernetes(found, VERSIONS[number % len(VERSIONS)])


def test_a_key_that_kubernetes_does_not_know_is_found() -> None:
    service = copy.deepcopy(of_kind(parsed("nothing"), "Service", "r-aloraserve"))
    service["spec"]["selectors"] = {}
    with pytest.raises(Exception, match="selectors"):
        check_kubernetes(service, VERSIONS[-1])


@pytest.mark.parametrize("case", CASES)
def test_the_ray_service_is_one_of_kuberays(case: str) -> None:
    assert ray_service_faults(of_kind(parsed(case), "RayService")) == []


def test_a_key_that_kuberay_does_not_know_is_found() -> None:
    service = copy.deepcopy(of_kind(parsed("nothing"), "RayService"))
    service["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]["replica"] = 2
    assert ray_service_faults(service)


@pytest.mark.parametrize("case", CASES)
def test_the_serve_config_has_no_key_that_serve_would_ignore_and_no_setting_that_is_refused(case: str) -> None:
    config = serve_config(parsed(case))
    assert ignored_keys(config) == []
    arguments = config["applications"][0]["args"]
    settings = settings_from_arguments(arguments | {"redis_url": "redis://redis:6379/0"})
    if case == "cells":
        assert settings.cells == 2
    assert {name for name in OF_THE_POD if name in arguments} >= {"key_pepper_file"}


@pytest.mark.parametrize("case", CASES)
def test_names_are_short_enough_and_no_two_objects_have_the_same(case: str) -> None:
    found = [(each["kind"], each["metadata"]["name"]) for each in parsed(case)]
    assert len(found) == len(set(found))
    assert all(len(name) <= 63 for _, name in found)


def test_kubectl_reads_every_object(tmp_path: Path) -> None:
    """Client-side and without a cluster: a change that is not sent anywhere."""
    for profile in PROFILES:
        file = tmp_path / profile.name
        file.write_text(rendered(profile.name))
        command = [tool("kubectl"), "label", "--local", "--dry-run=client", "-o", "name", "-f", str(file), "seen=yes"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        assert len(done.stdout.split()) == len(parsed(profile.name))


def test_names_that_yaml_reads_as_something_else_stay_names(tmp_path: Path) -> None:
    """A release, a namespace, a group and Secrets called like booleans and numbers."""
    values = {
        "fullnameOverride": "on",
        "engines": {"groups": [{"name": "no"}]},
        "model": {"servedName": "1e3", "existingClaim": "123", "hfToken": {"secretName": "1", "secretKey": "y"}},
        "keys": {"apiKeys": {"secretName": "true", "secretKey": "null"}},
    }
    text = render(values, release="y")
    file = tmp_path / "objects.yaml"
    file.write_text(text)
    command = [tool("kubectl"), "label", "--local", "--dry-run=client", "-o", "name", "-f", str(file), "seen=yes"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    found = objects(text)
    assert serve_config(found)["applications"][0]["args"]["served_name"] == "1e3"
    for each in filter(is_kubernetes, found):
        check_kubernetes(each, VERSIONS[-1])
