"""What runs: the model, its engines, how many of them, and where files are."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field

from aloraserve.errors import SettingsError
from aloraserve.routing.cells import MAX_CELL_REPLICAS


def default_state_dir() -> Path:
    """Return where the platform keeps converted models, demo adapters and its run file.

    Raises:
        SettingsError: this user has no home folder, and nothing names another one.
    """
    root = os.environ.get("XDG_STATE_HOME")
    if root:
        return Path(root) / "aloraserve"
    try:
        return Path.home() / ".local" / "state" / "aloraserve"
    except RuntimeError:
        raise SettingsError(
            f"state_dir is not set, and user {os.getuid()} has no home folder to put it in: set --state-dir, "
            "ALORASERVE_STATE_DIR, XDG_STATE_HOME or HOME"
        ) from None


class FleetSettings(BaseModel):
    """What runs: the model, its engines, how many of them, and where files are."""

    model: str = Field("smollm2", description='Model folder, hub id, or "smollm2", which comes with the package.')
    served_name: str | None = Field(None, description="Name of the base model in the API; default: the folder's name.")
    dtype: Literal["auto", "bfloat16", "float32"] = Field(
        "auto",
        description="Weights and KV cache; auto: bfloat16 where the hardware multiplies it, else float32.",
    )
    engine: Literal["vllm", "simulated"] = Field("vllm", description="What generates; simulated: no model, a clock.")
    calibration: str = Field(
        "live-peers", description="What a simulated engine's times and sizes are: a name or a JSON file."
    )
    replicas: int = Field(2, ge=1, le=4096, description="Engine replicas, without autoscaling.")
    cells: int = Field(
        1,
        ge=1,
        le=64,
        description=f"Parts of the fleet with a directory each, of up to {MAX_CELL_REPLICAS} replicas.",
    )
    cell_spill_s: float = Field(
        0.5, ge=0, le=3600, description="Expected TTFT in a call's own cell above which a second cell is asked too."
    )
    gateways: int = Field(1, ge=1, le=32, description="Gateway replicas, without autoscaling.")
    state_dir: Path = Field(default_factory=default_state_dir, description="Converted models and the run file.")
    start_timeout_s: float = Field(300, gt=0, le=3600, description="Time for the platform to become ready.")
