"""Facts of an evaluation: model, machine, seeds and versions."""

from __future__ import annotations

import importlib.metadata
from typing import TYPE_CHECKING

from aloraserve import __version__
from aloraserve_services.models.hardware import describe_machine

if TYPE_CHECKING:
    from aloraserve_services.training.evaluation import EvaluationRequest

_LIBRARIES = ("torch", "transformers", "peft")


def facts_of(request: EvaluationRequest, rows: int) -> dict[str, str]:
    """Return what is to be known about an evaluation, for people."""
    platform = request.platform
    served = {} if platform is None else {"platform": f"{platform.concurrency} calls at a time, up to 3 attempts each"}
    return {
        "base model": request.prepared.base_name,
        "data": f"{rows} rows of {', '.join(request.spec.data.files)}, split {request.split}",
        "computation": f"{request.prepared.dtype}, one row at a time, greedy, held to the form",
        "seed": str(request.seed),
        "intervals": "95 %, percentile bootstrap over rows, 2,000 draws",
        **served,
        "machine": describe_machine(),
        "versions": ", ".join([f"aloraserve {__version__}", *map(_version, _LIBRARIES)]),
    }


def _version(library: str) -> str:
    return f"{library} {importlib.metadata.version(library)}"
