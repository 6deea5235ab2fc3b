"""The arms that are compared: the same calls, answered in different ways."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

ArmName = Literal["lora", "alora", "base", "alora-no-router"]
TWIN_SUFFIX = "-lora"
ALL = "all"
"""The arm of a call that all arms of a conversation share."""


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to answer an intrinsic's calls.

    Args:
        name: in the report.
        is_routed: False needs a platform whose router ignores who holds what (``--policy round-robin``).
    """

    name: ArmName
    is_routed: bool = True

    def model(self, intrinsic: str, base: str) -> str:
        """Return the model that an intrinsic's call names.

        Args:
            intrinsic: name of an aLoRA adapter whose plain twin is called ``<name>-lora``.
            base: name of the base model.
        """
        if self.name == "base":
            return base
        return intrinsic + TWIN_SUFFIX if self.name == "lora" else intrinsic


ARMS: dict[str, Arm] = {
    "lora": Arm("lora"),
    "alora": Arm("alora"),
    "base": Arm("base"),
    "alora-no-router": Arm("alora-no-router", is_routed=False),
}
