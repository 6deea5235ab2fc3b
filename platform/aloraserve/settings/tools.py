"""Calls of functions in answers."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field


class ToolSettings(BaseModel):
    """Calls of functions in answers."""

    tool_parser: Literal["auto", "none", "hermes", "granite", "granite4", "llama3_json", "mistral"] = Field(
        "auto",
        description="How the base model writes calls of functions; auto: as its chat template says.",
    )
