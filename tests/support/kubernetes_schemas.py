"""Strict schemas of Kubernetes' objects and of KubeRay's: an unknown key is an error."""

from __future__ import annotations

import copy
import os
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

VERSIONS = tuple(f"1.{minor}" for minor in range(30, 38))
CRDS = "KUBERAY_CRDS"
"""A folder with KubeRay's CustomResourceDefinitions: ``helm-chart/kuberay-operator/crds`` of its repository."""
OTHERS = ("ray.io", "monitoring.coreos.com", "gateway.networking.k8s.io")
"""Groups of objects that Kubernetes itself does not know."""


def is_kubernetes(found: dict[str, Any]) -> bool:
    """Return whether an object is one of Kubernetes' own."""
    return found["apiVersion"].partition("/")[0] not in OTHERS


def check_kubernetes(found: dict[str, Any], version: str) -> None:
    """Raise if an object is not one of this version of Kubernetes; skip the test where there are no schemas."""
    kubernetes_validate = pytest.importorskip(
        "kubernetes_validate", reason="kubernetes-validate is not installed: make install-dev brings it"
    )
    kubernetes_validate.validate(found, version, strict=True)


def ray_service_faults(found: dict[str, Any]) -> list[str]:
    """Return what KubeRay's definition finds wrong in a RayService; skip the test where there is none."""
    folder = os.environ.get(CRDS)
    if folder is None:
        pytest.skip(f"{CRDS} names no folder with KubeRay's CustomResourceDefinitions")
    # What metadata may have is not in the definition.
    content = found | {"metadata": {}}
    return [f"{error.json_path}: {error.message[:200]}" for error in _ray_validator(folder).iter_errors(content)]


@cache
def _ray_validator(folder: str) -> jsonschema.Draft202012Validator:
    for path in sorted(Path(folder).glob("*.yaml")):
        definition = yaml.load(path.read_text(), Loader=yaml.CSafeLoader)
        if definition["spec"]["names"]["kind"] == "RayService":
            [version] = [each for each in definition["spec"]["versions"] if each["name"] == "v1"]
            schema = copy.deepcopy(version["schema"]["openAPIV3Schema"])
            _make_strict(schema)
            return jsonschema.Draft202012Validator(schema)
    raise AssertionError(f"{folder} has no definition of RayService")


def _make_strict(schema: Any) -> None:
    if isinstance(schema, dict):
        if schema.get("properties") and not schema.get("x-kubernetes-preserve-unknown-fields"):
            schema.setdefault("additionalProperties", False)
        for each in schema.values():
            _make_strict(each)
    elif isinstance(schema, list):
        for each in schema:
            _make_strict(each)
