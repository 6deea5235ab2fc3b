"""All routers by name: what ``--policy`` accepts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from aloraserve.errors import SettingsError
from aloraserve.routing.policies import POLICIES
from aloraserve.simulation.base import RouterFactory
from aloraserve.simulation.platform_router import PlatformRouter
from aloraserve.simulation.routers import BASELINES
from aloraserve.simulation.routers.formula import FormulaRouter

ALL = "all"


def router_names() -> list[str]:
    """Return the names of the platform's policies, then of other routers."""
    return [*POLICIES, *BASELINES]


def chosen_names(given: Sequence[str]) -> list[str]:
    """Return the routers that flags name, each once, in the order given; commas separate names too.

    Raises:
        SettingsError: one is not known; names all that are.
    """
    parts = [part.strip() for text in given for part in text.split(",") if part.strip()]
    known = router_names()
    chosen: dict[str, None] = {}
    for part in parts:
        if part != ALL and part not in known:
            raise SettingsError(f"policy is {part!r}; {ALL} or some of {', '.join(known)} are accepted")
        chosen.update(dict.fromkeys(known if part == ALL else [part]))
    if not chosen:
        raise SettingsError(f"no policy is given; {ALL} or some of {', '.join(known)} are accepted")
    return list(chosen)


def router_factory(name: str, *, step_tokens: int) -> RouterFactory:
    """Return what makes the router.

    Args:
        name: one of :func:`router_names`.
        step_tokens: tokens per step of the engines, for the platform's cost model.
    """
    if name in BASELINES:
        return partial(FormulaRouter, BASELINES[name])
    return partial(PlatformRouter, name, step_tokens=step_tokens)
