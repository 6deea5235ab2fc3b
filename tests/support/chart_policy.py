"""Checkov over the chart's profiles, the pods of its RayServices too: ``python -m support.chart_policy CHECKOV``."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

from support.helm_tools import CHART, objects, render

PASSED_OVER = {
    "CKV_K8S_15": "images are by version: pulling them again changes nothing (`image.pullPolicy`)",
    "CKV_K8S_35": "Redis' URL and keys are variables of the process that reads them; secrets that are files are files",
    "CKV_K8S_43": "digests are the operator's (`*.image.digest`)",
    "CKV_K8S_38": "Ray's autoscaler needs the head's token",
}
"""Rules that are not asked, and why; none is of high severity."""


WITHOUT_PROBES = {f"checkov.io/skip{rule}": f"CKV_K8S_{rule}=this pod ends by itself" for rule in (8, 9)}
"""Annotations of pods that nobody calls."""


def pods_of_ray(service: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the pods that KubeRay would make of a RayService: checkov does not know where they are in it."""
    spec = service["spec"]["rayClusterConfig"]
    templates = {"head": spec["headGroupSpec"]["template"]}
    templates |= {group["groupName"]: group["template"] for group in spec["workerGroupSpecs"]}
    named = {name: {"name": f"ray-{name}", "namespace": "models"} for name in templates}
    return [
        {"apiVersion": "v1", "kind": "Pod", "metadata": pod["metadata"] | named[name], "spec": pod["spec"]}
        for name, pod in templates.items()
    ]


def main(checkov: str) -> int:
    """Run it; return its exit code."""
    with tempfile.TemporaryDirectory() as folder:
        for profile in sorted((CHART / "ci").glob("*-values.yaml")):
            found = objects(render({}, profile))
            for each in found:
                if each["kind"] == "Pod":
                    each["metadata"]["annotations"] |= WITHOUT_PROBES
            pods = [pod for each in found if each["kind"] == "RayService" for pod in pods_of_ray(each)]
            (Path(folder) / profile.name).write_text(yaml.safe_dump_all(found + pods))
        command = [
            checkov,
            "--directory",
            folder,
            "--framework",
            "kubernetes",
            "--compact",
            "--quiet",
            "--skip-download",
        ]
        done = subprocess.run([*command, "--skip-check", ",".join(PASSED_OVER)], check=False)
    print(json.dumps({"passed over": PASSED_OVER}, indent=2))
    return done.returncode


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
