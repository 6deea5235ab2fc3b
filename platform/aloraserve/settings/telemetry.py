"""Metrics, spans and records."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field

from aloraserve.settings.address import Address

LogFormat = Literal["auto", "json", "text"]


class TelemetrySettings(BaseModel):
    """Metrics, spans and records."""

    metrics: bool = Field(True, description="Count and serve metrics in every process.")
    metrics_host: Address = Field("127.0.0.1", description="Address that every process serves its metrics on.")
    metrics_port: int = Field(0, ge=0, le=65535, description="First port tried for that; 0: the system chooses.")
    otlp_endpoint: str | None = Field(
        None, pattern=r"^https?://\S+$", description="OTLP collector that spans go to; without it there are none."
    )
    log_format: LogFormat = Field("auto", description="Records as JSON or text; auto: text on a terminal.")
    log_dir: Path | None = Field(
        None, description="Folder with a file of each process' output; default: logs in the state folder with `up`."
    )
    accelerator_hour_price: float | None = Field(
        None, ge=0, le=1e6, description="What an hour of one engine costs, in any currency; prices the savings."
    )
