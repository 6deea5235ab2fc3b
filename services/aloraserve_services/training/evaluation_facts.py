"""Facts of an evaluation: model, machine, seeds and versions."""

from __future__ import annotations

import importlib.metadata
from typing import TYPE_CHECKING

from aloraserve import __version__
from aloraserve_services.models.hardware import Dtype, describe_machine

if TYPE_CHECKING:
    from aloraserve_services.training.evaluation import RowChoice
    from aloraserve_services.training.run import PreparedTraining
    from aloraserve_services.training.served_answers import PlatformTarget

_LIBRARIES = ("torch", "transformers", "peft")


def facts_of(
    prepared: PreparedTraining, choice: RowChoice, rows: int, platform: PlatformTarget | None = None
) -> dict[str, str]:
    """Return what is to be known about an evaluation, for people.

    Args:
        prepared: spec, data and base model.
        choice: of the rows.
        rows: how many they are.
        platform: that was asked too, None without.
    """
    served = {} if platform is None else {"platform": platform_text(platform, prepared.dtype)}
    return {
        "base model": prepared.base_name,
        "data": f"{rows} rows of {', '.join(prepared.spec.data.files)}, split {choice.split}",
        "computation": f"{prepared.dtype}, one row at a time, greedy, held to the form",
        "seed": str(choice.seed),
        "intervals": "95 %, percentile bootstrap over rows, 2,000 draws",
        **served,
        "machine": describe_machine(),
        "versions": ", ".join([f"aloraserve {__version__}", *map(_version, _LIBRARIES)]),
    }


def platform_text(platform: PlatformTarget, dtype: Dtype) -> str:
    """Return how a platform was asked, and what it computes in, for people.

    Args:
        platform: that was asked.
        dtype: of PEFT's computation.
    """
    calls = f"{platform.concurrency} calls at a time, up to 3 attempts each"
    if platform.dtype is None:
        return f"{calls}; it does not say its dtype"
    other = "" if platform.dtype == dtype else f", PEFT in {dtype}: answers may differ by rounding"
    return f"{calls}; in {platform.dtype}{other}"


def _version(library: str) -> str:
    return f"{library} {importlib.metadata.version(library)}"
