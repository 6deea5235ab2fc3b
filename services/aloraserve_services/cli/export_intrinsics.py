"""``aloraserve export-intrinsics``: the adapters' specs as the folder that mellea reads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from aloraserve.adapters.intrinsics.export import export_intrinsics as export
from aloraserve_services.cli.console import Steps, err, report_written
from aloraserve_services.cli.options import ChosenSettings, takes_settings
from aloraserve_services.plan import make_plan


@takes_settings("model", "adapters_dir", "state_dir", "dtype")
def export_intrinsics(
    chosen: ChosenSettings,
    folder: Annotated[Path, typer.Argument(help="Folder to write; it must not be there yet.")],
) -> None:
    """Write the intrinsics of an adapters' folder for mellea: adapter_index.json and io_configs/."""
    registry = make_plan(chosen.load(), progress=Steps()).open_registry()
    for adapter in (*registry.refused(), *export(registry.all(), folder.absolute())):
        err.print(f"left out: {adapter.name}: {adapter.reason}", style="yellow", markup=False, soft_wrap=True)
    report_written(folder)
