"""How long calls may take, and what stops may take that long."""

from __future__ import annotations

from pydantic import BaseModel, Field


class TimeoutSettings(BaseModel):
    """How long calls may take, and what stops may take that long."""

    call_timeout_s: float = Field(
        1800, gt=0, le=86_400, description="Time from a request to its answer's end; a request may ask for less."
    )
    chunk_timeout_s: float = Field(
        300, gt=0, le=3600, description="Time that a replica may send nothing amid an answer."
    )
    sse_comment_s: float = Field(
        15, gt=0, le=3600, description="Silence after which a stream's client gets its headers, or a comment."
    )
    engine_stall_s: float = Field(
        120, ge=1, le=3600, description="Time that an engine with work may do nothing before it is killed and replaced."
    )
    drain_delay_s: float = Field(
        0, ge=0, le=600, description="Time that a stopping gateway says it is not ready and still takes calls."
    )
    drain_timeout_s: float | None = Field(
        None, ge=0, le=86_400, description="Time for running answers when a process stops; default: call_timeout_s."
    )

    @property
    def drain_s(self) -> float:
        """Time for running answers when a process stops: none is cut, as all of them end by then."""
        return self.call_timeout_s if self.drain_timeout_s is None else self.drain_timeout_s

    @property
    def stop_s(self) -> float:
        """Time that a gateway's stop takes at most: others learn of it, then its answers end."""
        return self.drain_delay_s + self.drain_s
