"""Engines: sizes, scheduling, and how calls reach them."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, Field, field_validator, model_validator

from aloraserve.routing.scheduling import AGEING, MAX_AGEING, MIN_AGEING, SchedulingPolicy
from aloraserve.settings.address import Address
from aloraserve.settings.engine_arguments import check_engine_arguments


class EngineSettings(BaseModel):
    """Engines: sizes, scheduling, and how calls reach them."""

    max_model_len: int = Field(8192, ge=64, le=1 << 20, description="Longest prompt plus answer, in tokens.")
    block_tokens: int = Field(32, ge=8, le=256, multiple_of=8, description="Tokens per KV block.")
    kv_cache_gib: float = Field(1.0, gt=0, le=1024, description="KV cache of each replica on the CPU, in GiB.")
    device: Literal["auto", "cpu", "gpu"] = Field(
        "auto", description="What vLLM's engines run on; auto: a CPU if vLLM's build for it is installed, else a GPU."
    )
    max_num_seqs: int = Field(16, ge=1, le=1024, description="Requests that one engine runs at once.")
    max_queued: int = Field(
        256, ge=1, le=100_000, description="Requests that may wait in each gateway for a replica; more get 429."
    )
    stream_interval: int = Field(
        1, ge=1, le=1024, description="Tokens of an answer that an engine streams together, after the first."
    )
    generation_config: Literal["auto", "vllm"] = Field(
        "auto",
        description="Defaults of sampling fields: the model's own (its generation_config.json), or vLLM's.",
    )
    transport: Literal["channel", "serve"] = Field(
        "channel", description="What carries calls to the engines: a connection to each replica, or Serve's handle."
    )
    channel_host: Address = Field(
        "127.0.0.1",
        description="Address that replicas take the calls of gateways on other machines on; loopback: from none.",
    )
    channel_port: int = Field(0, ge=0, le=65535, description="First port tried for that; 0: the system chooses.")
    scheduling_policy: SchedulingPolicy = Field(
        "priority",
        description="Which waiting call an engine begins: the shortest prefill, ageing, or the first that came (fcfs).",
    )
    priority_ageing: float = Field(
        AGEING,
        ge=MIN_AGEING,
        le=MAX_AGEING,
        description="Seconds of prefill that a second of waiting makes up for; a low rate favours short calls.",
    )

    engine_args: dict[str, Any] = Field(
        {}, max_length=64, description="Arguments that pass through to vLLM, by its names; tensor_parallel_size is one."
    )

    @field_validator("engine_args")
    @classmethod
    def _arguments_pass_through(cls, value: dict[str, Any]) -> dict[str, Any]:
        check_engine_arguments(value)
        return value

    @property
    def gpus_per_engine(self) -> int:
        """GPUs that one engine spreads its model over."""
        return int(self.engine_args.get("tensor_parallel_size", 1))

    @model_validator(mode="after")
    def _context_holds_blocks(self) -> Self:
        if self.max_model_len < 2 * self.block_tokens:
            raise ValueError(
                f"max_model_len is {self.max_model_len} with block_tokens {self.block_tokens}: "
                "room for at least two blocks is needed"
            )
        return self
