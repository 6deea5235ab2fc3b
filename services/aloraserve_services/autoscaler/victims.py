"""The replicas that Serve's controller stops: those that were chosen, instead of the newest.

Serve has no hook for that (ray-project/ray#33056, #58959). So ``DeploymentScheduler._get_replicas_to_stop`` is wrapped
in the controller's process: Serve chooses first, and of the running replicas among its choice those that were chosen
here take the places. Those that do not run yet go before, as Serve has it. Where the method is not the one that this
was written for, nothing is wrapped; where a choice is not one that can be read, Serve's stands. (ADR 0033)
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from aloraserve_services.autoscaler.controller_log import controller_log

METHOD = "_get_replicas_to_stop"
PARAMETERS = (
    "self",
    "deployment_id",
    "max_num_to_stop",
    "gang_id_by_replica",
    "replicas_by_gang_id",
    "gang_size",
)
CALLER = "schedule"
"""The method of Serve's that asks."""

log = controller_log()


class Leaving(NamedTuple):
    """What is known of a deployment when Serve asks.

    Args:
        running: Serve's ids of its running replicas, by the fleet's.
        chosen: the fleet's ids of those that are to be stopped, in their order.
        on_choice: called with whether all that are stopped were chosen here.
    """

    running: Mapping[str, Any]
    chosen: Sequence[str]
    on_choice: Callable[[bool], None] = lambda is_ours: None


_Ask = Callable[[], Leaving]
_asked: dict[Any, _Ask] = {}


def choose_for(deployment_id: Any, ask: _Ask, scheduler: type | None = None) -> str | None:
    """Have ``ask`` say which replicas of a deployment are stopped, from now on.

    Args:
        deployment_id: Serve's id of it.
        ask: returns what is known when Serve asks.
        scheduler: Serve's class; None: the one of this process.

    Returns:
        Why Serve goes on to choose by itself, None if it does not.
    """
    _asked[deployment_id] = ask
    if scheduler is None:
        from ray.serve._private.deployment_scheduler import DeploymentScheduler

        scheduler = DeploymentScheduler
    method = getattr(scheduler, METHOD, None)
    if getattr(method, "is_wrapped", False):
        return None
    if (problem := _difference(scheduler, method)) is None:
        setattr(scheduler, METHOD, _wrapped(method))
    return problem


def cease_for(deployment_id: Any, ask: _Ask) -> None:
    """Leave the choice to Serve again, if it is still ``ask`` that is asked."""
    if _asked.get(deployment_id) == ask:
        _asked.pop(deployment_id, None)


def _difference(scheduler: type, method: Any) -> str | None:
    """Return how Serve's scheduler is another one than this was written for."""
    if method is None:
        return f"{scheduler.__name__} has no {METHOD}"
    found = tuple(inspect.signature(method).parameters)
    if found != PARAMETERS:
        return f"{METHOD} has the parameters {', '.join(found)}"
    caller = getattr(scheduler, CALLER, None)
    if METHOD not in getattr(getattr(caller, "__code__", None), "co_names", ()):
        return f"{CALLER} does not ask {METHOD}"
    return None


def _wrapped(method: Any) -> Any:
    @functools.wraps(method)
    def choose(self: Any, deployment_id: Any, max_num_to_stop: int, *gangs: Any, **named: Any) -> Any:
        serves = method(self, deployment_id, max_num_to_stop, *gangs, **named)
        try:
            ask = _asked.get(deployment_id)
            has_gangs = any(each is not None for each in (*gangs, *named.values()))
            if ask is None or has_gangs:
                return serves
            return _chosen(_in_order(lambda count: method(self, deployment_id, count), len(serves)), ask())
        except Exception as error:
            # It would stop all of Serve.
            log.error("victims_not_chosen", cause=type(error).__name__, exc_info=error)
            return serves

    setattr(choose, "is_wrapped", True)  # noqa: B010 - mypy knows no attributes of functions
    return choose


def _in_order(choose: Callable[[int], set[Any]], count: int) -> list[Any]:
    """Return Serve's choice in its order: it returns sets, the first of which have one replica more each."""
    order: list[Any] = []
    for size in range(1, count + 1):
        order += choose(size) - set(order)
    return order


def _chosen(serves: Sequence[Any], leaving: Leaving) -> set[Any]:
    """Return as many as Serve chose: those of its choice that do not run, then ours, then the rest of its own."""
    running = set(leaving.running.values())
    idle = [replica for replica in serves if replica not in running]
    ours = [leaving.running[name] for name in leaving.chosen if name in leaving.running]
    rest = [replica for replica in serves if replica in running and replica not in ours]
    chosen = set([*idle, *ours, *rest][: len(serves)])
    if stopped := chosen & running:
        leaving.on_choice(stopped <= set(ours))
    return chosen
