"""The peers' routers, each from its published formula, one file each: they choose, the modelled engines are shared.

Each file's docstring names the upstream files and versions that were read, the defaults taken, how the original keys
prompts (salted with the adapter, or blind to it), and what could not be reproduced. ``docs/benchmarks/baselines.md``
has them side by side.
"""

from __future__ import annotations

from functools import partial

from aloraserve.simulation.routers.aibrix import AIBrix
from aloraserve.simulation.routers.blind_holdings import BlindHoldings
from aloraserve.simulation.routers.dynamo import Dynamo
from aloraserve.simulation.routers.formula import FormulaFactory
from aloraserve.simulation.routers.llm_d import LlmD
from aloraserve.simulation.routers.llm_d_sticky import LlmDSticky
from aloraserve.simulation.routers.ray_prefix_affinity import RayPrefixAffinity
from aloraserve.simulation.routers.sglang import SGLang

SALTED: dict[str, FormulaFactory] = {"dynamo": Dynamo, "llm-d": LlmD, "llm-d-sticky": LlmDSticky, "aibrix": AIBrix}
"""Those that put the adapter in every key, by name; each is there as a deployment without that, too."""

BASELINES: dict[str, FormulaFactory] = {
    RayPrefixAffinity.name: RayPrefixAffinity,
    SGLang.name: SGLang,
    **SALTED,
    "dynamo-blind": partial(Dynamo, make_holdings=BlindHoldings, name="dynamo-blind"),
    "llm-d-blind": partial(LlmD, make_holdings=BlindHoldings, name="llm-d-blind"),
    "llm-d-sticky-blind": partial(LlmDSticky, make_holdings=BlindHoldings, name="llm-d-sticky-blind"),
    "aibrix-blind": partial(AIBrix, is_blind=True),
}
"""What makes each formula, by its name on the command line."""
