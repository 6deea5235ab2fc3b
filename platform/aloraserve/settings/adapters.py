"""Adapters: where they come from, and what engines keep of them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, Field, field_validator, model_validator


class AdapterSettings(BaseModel):
    """Adapters: where they come from, and what engines keep of them."""

    adapters_dir: Path | None = Field(None, description="Folder of PEFT adapters, one subfolder each; it is followed.")
    adapters_poll_s: float = Field(2, ge=0.05, le=3600, description="Seconds between looks into that folder.")
    adapter_store: Path | None = Field(
        None, description="Folder of what engines load, for all machines to share; default: in the state folder."
    )
    adapter_sources: tuple[str, ...] = Field(
        (),
        max_length=64,
        description="Folders and beginnings of URLs that adapters may be fetched from, beside adapters_dir.",
    )
    max_tenant_adapters: int = Field(
        64, ge=1, le=10_000, description="Adapters' versions that each tenant may have registered."
    )
    reserve_modules: tuple[str, ...] = Field(
        (),
        max_length=32,
        description="Linears that later adapters may change, beside those of the adapters at the start.",
    )
    reserve_rank: Literal[0, 8, 16, 32, 64, 128, 256] = Field(
        0, description="Rank that later adapters may have, if none has it at the start; 0: none."
    )
    reserve_exactly: bool = Field(
        False, description="Room for adapters is what the two reserve settings say, whatever is there at the start."
    )
    max_loras: int = Field(8, ge=1, le=64, description="Adapters that may run in one batch.")
    max_loaded_adapters: int = Field(
        64, ge=1, le=1024, description="Adapters that each replica keeps in the host's memory; others load when called."
    )
    adapter_memory_gib: float = Field(
        0, ge=0, le=65536, description="Size of their files together, in GiB; 0: no limit but their number."
    )
    pinned_adapters: tuple[str, ...] = Field(
        (), max_length=256, description="Adapters that every replica loads at its start and keeps."
    )
    preloaded_adapters: tuple[str, ...] = Field(
        (), max_length=256, description="Adapters that every replica loads before they are called, and may unload."
    )
    max_lora_rank: Literal[8, 16, 32, 64, 128, 256] = Field(64, description="Highest adapter rank accepted.")

    @field_validator("max_lora_rank", "reserve_rank", mode="before")
    @classmethod
    def _rank_may_be_text(cls, value: object) -> object:
        # A variable's value is text, which a Literal of numbers does not take.
        return int(value) if isinstance(value, str) and value.isdecimal() else value

    @field_validator("adapter_sources")
    @classmethod
    def _sources_are_folders_or_urls(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        # Not at the top: it brings numpy, which commands do not wait for.
        from aloraserve.adapters.sources import SourcePolicy

        SourcePolicy.of(value)
        return value

    @model_validator(mode="after")
    def _slots_have_adapters(self) -> Self:
        if self.max_loaded_adapters < self.max_loras:
            raise ValueError(
                f"max_loaded_adapters is {self.max_loaded_adapters} with max_loras {self.max_loras}: at least as many "
                "are needed"
            )
        if len(self.pinned_adapters) > self.max_loaded_adapters - self.max_loras:
            raise ValueError(
                f"pinned_adapters has {len(self.pinned_adapters)} names with max_loaded_adapters "
                f"{self.max_loaded_adapters}: max_loras ({self.max_loras}) places are needed beside them"
            )
        return self

    @model_validator(mode="after")
    def _an_exact_reserve_is_whole(self) -> Self:
        if self.reserve_exactly and not (self.reserve_modules and self.reserve_rank):
            raise ValueError("reserve_exactly needs reserve_modules and reserve_rank")
        return self
