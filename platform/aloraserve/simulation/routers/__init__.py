"""The peers' routers, each from its published formula, one file each: they choose, the modelled engines are shared.

Each file's docstring names the upstream files and versions that were read, the defaults taken, how the original keys
prompts (salted with the adapter, or blind to it), and what could not be reproduced. ``docs/benchmarks/baselines.md``
has them side by side.
"""

from __future__ import annotations

from aloraserve.simulation.routers.aibrix import AIBrix
from aloraserve.simulation.routers.dynamo import Dynamo
from aloraserve.simulation.routers.formula import FormulaFactory
from aloraserve.simulation.routers.llm_d import LlmD
from aloraserve.simulation.routers.llm_d_sticky import LlmDSticky
from aloraserve.simulation.routers.ray_prefix_affinity import RayPrefixAffinity
from aloraserve.simulation.routers.sglang import SGLang

BASELINES: dict[str, FormulaFactory] = {
    RayPrefixAffinity.name: RayPrefixAffinity,
    Dynamo.name: Dynamo,
    LlmD.name: LlmD,
    LlmDSticky.name: LlmDSticky,
    AIBrix.name: AIBrix,
    SGLang.name: SGLang,
}
"""What makes each formula, by its name on the command line."""

SALTED = frozenset({Dynamo.name, LlmD.name, LlmDSticky.name, AIBrix.name})
"""Those that put the adapter in every key; the others do not look at it."""
