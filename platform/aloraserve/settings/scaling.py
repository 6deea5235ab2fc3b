"""How many replicas and gateways there are, and what changes that."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from aloraserve.routing.cells import MAX_CELL_REPLICAS
from aloraserve.settings.fleet import FleetSettings


class ScalingSettings(FleetSettings):
    """How many replicas and gateways there are, and what changes that."""

    autoscaling: bool = Field(
        False, description="Whether replicas and gateways follow the load; without it there are as many as set."
    )
    min_replicas: int = Field(1, ge=0, le=4096, description="With autoscaling: engine replicas at least; 0: none.")
    max_replicas: int = Field(4, ge=1, le=4096, description="With autoscaling: engine replicas at most.")
    min_gateways: int = Field(1, ge=1, le=32, description="With autoscaling: gateway replicas at least.")
    max_gateways: int = Field(4, ge=1, le=32, description="With autoscaling: gateway replicas at most.")
    ttft_objective_s: float = Field(
        2.0, gt=0, le=600, description="Time to first token that autoscaling keeps nearly all calls within."
    )
    scale_up_cooldown_s: float = Field(5.0, ge=0, le=3600, description="Least time between two increases.")
    scale_down_cooldown_s: float = Field(
        180.0, ge=0, le=86_400, description="Time for which fewer replicas must have been enough, before one goes."
    )
    scaling_tolerance: float = Field(
        0.1, ge=0, le=1, description="Share by which the load may grow before a replica that went is needed again."
    )
    idle_timeout_s: float = Field(
        600.0, ge=1, le=86_400, description="With min_replicas 0: time without a call after which no replica is left."
    )
    replica_start_s: float = Field(
        0.0, ge=0, le=3600, description="Time that a replica takes to start, as expected; 0: as measured."
    )
    warm_up_budget_s: float = Field(
        20.0,
        ge=0,
        le=600,
        description="With autoscaling: time in which a new replica computes the fleet's hottest prefixes; 0: none.",
    )
    hold_timeout_s: float = Field(
        300.0, gt=0, le=3600, description="Time that a call waits for a first replica while there is none."
    )

    calls_per_gateway: float = Field(
        128.0, ge=1, le=100_000, description="With autoscaling: calls in progress that one more gateway is started for."
    )
    max_surge_percent: int = Field(
        0, ge=0, le=100, description="Engine replicas that an update starts before it stops as many, in percent."
    )

    @property
    def scales_to_zero(self) -> bool:
        """Whether there may be no replica, so that calls are held until there is one."""
        return self.autoscaling and self.min_replicas == 0

    @property
    def warm_up_s(self) -> float:
        """What a new replica spends on the fleet's hottest prefixes; 0: no replica remembers prompts for others."""
        return self.warm_up_budget_s if self.autoscaling else 0.0

    @property
    def most_replicas(self) -> int:
        """Engine replicas that there may be."""
        return self.max_replicas if self.autoscaling else self.replicas

    @property
    def least_replicas(self) -> int:
        """Engine replicas that there are at least."""
        return self.min_replicas if self.autoscaling else self.replicas

    @property
    def least_gateways(self) -> int:
        """Gateway replicas that there are at least."""
        return self.min_gateways if self.autoscaling else self.gateways

    @property
    def most_gateways(self) -> int:
        """Gateway replicas that there may be."""
        return self.max_gateways if self.autoscaling else self.gateways

    @model_validator(mode="after")
    def _bounds_are_in_order(self) -> Self:
        for kind in ("replicas", "gateways"):
            least, most = getattr(self, f"min_{kind}"), getattr(self, f"max_{kind}")
            if least > most:
                raise ValueError(f"min_{kind} is {least} with max_{kind} {most}: at most max_{kind} is accepted")
        return self

    @model_validator(mode="after")
    def _cells_have_replicas(self) -> Self:
        name, least = ("min_replicas", self.min_replicas) if self.autoscaling else ("replicas", self.replicas)
        if self.cells > max(least, 1):
            raise ValueError(f"{name} is {least} with cells {self.cells}: at least one a cell is needed")
        name = "max_replicas" if self.autoscaling else "replicas"
        if self.most_replicas > self.cells * MAX_CELL_REPLICAS:
            raise ValueError(
                f"{name} is {self.most_replicas} with cells {self.cells}: 1 to {MAX_CELL_REPLICAS} a cell are accepted"
            )
        return self
