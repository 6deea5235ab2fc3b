"""How replicas are chosen."""

from __future__ import annotations

from pydantic import BaseModel, Field, field_validator

from aloraserve.routing.cost_model import TPOT_OBJECTIVE_S
from aloraserve.routing.expected_ttft import ExpectedTtft
from aloraserve.routing.policies import POLICIES, check_policy


class RoutingSettings(BaseModel):
    """How replicas are chosen."""

    policy: str = Field(
        ExpectedTtft.name,
        description=f"How replicas are chosen: {', '.join(POLICIES)}, or module:attribute of a policy of your own.",
    )
    tpot_objective_ms: float = Field(
        1000 * TPOT_OBJECTIVE_S,
        ge=0,
        le=60_000,
        description="Time per output token above which calls are charged for slowing answers down; 0: never.",
    )
    receipts: int = Field(1024, ge=1, le=100_000, description="Routing decisions that a gateway can explain.")
    lookup_budget_ms: float = Field(10, gt=0, le=1000, description="Time for the directory before falling back.")

    @field_validator("policy")
    @classmethod
    def _policy_is_known(cls, value: str) -> str:
        return check_policy(value)
