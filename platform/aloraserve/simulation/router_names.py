"""All routers by name: what ``--policy`` accepts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from aloraserve.errors import SettingsError
from aloraserve.routing.expected_ttft import ExpectedTtft
from aloraserve.routing.own_policy import is_path
from aloraserve.routing.policies import POLICIES, check_policy
from aloraserve.simulation.base import RouterFactory
from aloraserve.simulation.platform_router import PlatformRouter
from aloraserve.simulation.routers import BASELINES
from aloraserve.simulation.routers.formula import FormulaRouter

ALL = "all"
ADAPTER_BLIND = f"{ExpectedTtft.name}-blind"
"""The platform's own policy, which does not ask which adapters a replica has loaded and runs."""


def router_names() -> list[str]:
    """Return the names of the platform's policies, then of other routers."""
    return [*POLICIES, ADAPTER_BLIND, *BASELINES]


def chosen_names(given: Sequence[str]) -> list[str]:
    """Return the routers that flags name, each once, in the order given; commas separate names too.

    Raises:
        SettingsError: one is not known; names all that are. Or a policy of one's own cannot be used, and why.
    """
    parts = [part.strip() for text in given for part in text.split(",") if part.strip()]
    known = router_names()
    chosen: dict[str, None] = {}
    for part in parts:
        if is_path(part):
            _check_own(part)
        elif part != ALL and part not in known:
            raise SettingsError(f"policy is {part!r}; {ALL} or some of {', '.join(known)} are accepted")
        chosen.update(dict.fromkeys(known if part == ALL else [part]))
    if not chosen:
        raise SettingsError(f"no policy is given; {ALL} or some of {', '.join(known)} are accepted")
    return list(chosen)


def _check_own(policy: str) -> None:
    try:
        check_policy(policy)
    except ValueError as error:
        raise SettingsError(f"policy is {policy!r}: {error}") from error


def router_factory(name: str) -> RouterFactory:
    """Return what makes the router.

    Args:
        name: one of :func:`router_names`, or ``module:attribute`` of a policy of one's own.
    """
    if name in BASELINES:
        return partial(FormulaRouter, BASELINES[name])
    if name == ADAPTER_BLIND:
        return partial(PlatformRouter, ExpectedTtft.name, is_adapter_blind=True)
    return partial(PlatformRouter, name)
