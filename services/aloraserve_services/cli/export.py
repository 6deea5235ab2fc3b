"""``aloraserve export``: adapters as the files of other projects."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from aloraserve.errors import InvalidAdapterError, SettingsError
from aloraserve_services.cli.console import Steps, err, report_written
from aloraserve_services.cli.options import ChosenSettings, takes_settings
from aloraserve_services.models.gguf_export.stored_type import StoredType

if TYPE_CHECKING:
    from aloraserve.adapters import AdapterVersion, RefusedAdapter
    from aloraserve_services.plan import FleetPlan


@takes_settings("model", "adapters_dir", "state_dir", "dtype")
def export(
    chosen: ChosenSettings,
    adapters: Annotated[
        list[Path] | None, typer.Argument(help="Folders of adapters. Without any: all in --adapters-dir.")
    ] = None,
    gguf: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Write for llama.cpp: the base model and each adapter as a GGUF file."),
    ] = None,
    mellea: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Write the intrinsics for mellea: adapter_index.json and io_configs/."),
    ] = None,
    gguf_type: Annotated[StoredType, typer.Option(help="Type of the numbers in GGUF files.")] = "f16",
    with_base: Annotated[bool, typer.Option(help="Write the base model's GGUF too.")] = True,
) -> None:
    """Write adapters as the files of another project, into a folder that is not there yet."""
    if (gguf is None) == (mellea is None):
        raise SettingsError("name one folder to write: --gguf FOLDER for llama.cpp, or --mellea FOLDER for mellea")
    from aloraserve.adapters.intrinsics.export import export_intrinsics
    from aloraserve_services.plan import make_plan

    steps = Steps()
    plan = make_plan(chosen.load(), progress=steps)
    versions, left_out = _read(plan, adapters or [])
    if mellea is not None:
        left_out = [*left_out, *export_intrinsics(versions, mellea.absolute())]
    if gguf is not None:
        from aloraserve_services.models.gguf_export.export import export_gguf

        base = (plan.served_name, plan.model_path)
        export_gguf(gguf.absolute(), base, versions, stored=gguf_type, with_base=with_base, progress=steps)
    for adapter in left_out:
        err.print(f"left out: {adapter.name}: {adapter.reason}", style="yellow", markup=False, soft_wrap=True)
    report_written(gguf or mellea or Path())


def _read(plan: FleetPlan, folders: Sequence[Path]) -> tuple[Sequence[AdapterVersion], Sequence[RefusedAdapter]]:
    """Return the adapters in these folders, or else in the adapters' folder, and which of the latter are refused."""
    if not folders and plan.adapters_dir is None:
        raise SettingsError("name folders of adapters, or the folder that they lie in with --adapters-dir")
    if not folders:
        registry = plan.open_registry()
        return registry.all(), registry.refused()
    found = {folder.absolute().name: _read_one(plan, folder.absolute()) for folder in folders}
    if len(found) < len(folders):
        raise SettingsError("two of the folders have the same name, which becomes the adapter's; rename one")
    return list(found.values()), ()


def _read_one(plan: FleetPlan, folder: Path) -> AdapterVersion:
    try:
        return plan.open_reader().read(folder.name, folder)
    except InvalidAdapterError as error:
        raise InvalidAdapterError(f"the adapter {folder.name!r}: {error.message}") from error
