"""Facts of an evaluation: model, machine, seeds and versions."""

from __future__ import annotations

import importlib.metadata
from typing import TYPE_CHECKING

from aloraserve import __version__
from aloraserve_services.models.hardware import describe_machine

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
    served = {} if platform is None else {"platform": f"{platform.concurrency} calls at a time, up to 3 attempts each"}
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


def _version(library: str) -> str:
    return f"{library} {importlib.metadata.version(library)}"
