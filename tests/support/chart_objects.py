"""The objects of the chart's profiles, and what is in them."""

from __future__ import annotations

from functools import cache
from typing import Any

from support.helm_tools import CHART, objects, of_kind, render

COMPONENT = "app.kubernetes.io/component"


@cache
def profile(name: str) -> list[dict[str, Any]]:
    """Return the objects of a profile."""
    return objects(render({}, CHART / "ci" / f"{name}-values.yaml"))


def cluster(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the Ray cluster of a release."""
    spec: dict[str, Any] = of_kind(found, "RayService")["spec"]["rayClusterConfig"]
    return spec


def ray_pods(found: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the pod templates of a release's Ray by group."""
    spec = cluster(found)
    workers = {group["groupName"]: group["template"] for group in spec["workerGroupSpecs"]}
    return {"head": spec["headGroupSpec"]["template"], **workers}
