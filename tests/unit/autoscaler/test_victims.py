"""Serve's own scheduler, with and without a choice of ours."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any
from unittest import mock

import pytest
from ray.serve._private.common import DeploymentID, ReplicaID
from ray.serve._private.deployment_scheduler import DeploymentDownscaleRequest, DeploymentScheduler

from aloraserve_services.autoscaler import victims
from aloraserve_services.autoscaler.victims import METHOD, PARAMETERS, Leaving, cease_for, choose_for

ENGINES, OTHERS = DeploymentID("engine", "app"), DeploymentID("engine", "another app")


@pytest.fixture
def scheduler(monkeypatch: pytest.MonkeyPatch) -> Iterator[DeploymentScheduler]:
    """Serve's scheduler, whose class is put back."""
    monkeypatch.setattr(victims, "_asked", {})
    monkeypatch.setattr(DeploymentScheduler, METHOD, getattr(DeploymentScheduler, METHOD))
    nodes = mock.Mock()
    nodes.get_active_node_ids.return_value = set()
    nodes.get_node_labels.return_value = {}
    made = DeploymentScheduler(nodes, "head", mock.Mock())
    for deployment in (ENGINES, OTHERS):
        made.on_deployment_created(deployment, mock.Mock())
    return made


def runs(scheduler: DeploymentScheduler, deployment: DeploymentID, *names: str) -> dict[str, ReplicaID]:
    replicas = {name: ReplicaID(name, deployment) for name in names}
    for replica in replicas.values():
        scheduler.on_replica_running(replica, "node")
    return replicas


def stopped(scheduler: DeploymentScheduler, deployment: DeploymentID, count: int) -> set[str]:
    request = DeploymentDownscaleRequest(deployment_id=deployment, num_to_stop=count)
    found = scheduler.schedule({}, {deployment: request})
    return {replica.unique_id for replica in found[deployment]}


def choose(names: dict[str, ReplicaID], *chosen: str, heard: list[bool] | None = None) -> str | None:
    told = heard if heard is not None else []
    return choose_for(ENGINES, lambda: Leaving(names, chosen, told.append))


def test_serve_stops_the_newest_and_we_the_chosen(scheduler: DeploymentScheduler) -> None:
    names = runs(scheduler, ENGINES, "a", "b", "c")
    assert stopped(scheduler, ENGINES, 1) == {"c"}
    heard: list[bool] = []
    assert choose(names, "a", heard=heard) is None
    assert stopped(scheduler, ENGINES, 1) == {"a"}
    assert stopped(scheduler, ENGINES, 2) == {"a", "c"}, "the rest is Serve's choice"
    assert heard == [True, False]


def test_other_deployments_and_empty_choices_are_serve_s(scheduler: DeploymentScheduler) -> None:
    names = runs(scheduler, ENGINES, "a", "b")
    runs(scheduler, OTHERS, "a", "b")
    choose(names, "a")
    assert stopped(scheduler, OTHERS, 1) == {"b"}
    choose(names)
    assert stopped(scheduler, ENGINES, 1) == {"b"}


def test_replicas_that_do_not_run_yet_go_before(scheduler: DeploymentScheduler) -> None:
    names = runs(scheduler, ENGINES, "a", "b")
    scheduler.on_replica_recovering(ReplicaID("new", ENGINES))
    choose(names, "a")
    assert stopped(scheduler, ENGINES, 1) == {"new"}
    assert stopped(scheduler, ENGINES, 2) == {"new", "a"}


def test_one_that_has_gone_meanwhile_is_passed_over(scheduler: DeploymentScheduler) -> None:
    names = runs(scheduler, ENGINES, "a", "b")
    choose(names, "gone", "a")
    assert stopped(scheduler, ENGINES, 1) == {"a"}


def test_a_deployment_that_nobody_scales_any_more_is_serve_s(scheduler: DeploymentScheduler) -> None:
    names = runs(scheduler, ENGINES, "a", "b")

    def first() -> Leaving:
        return Leaving(names, ("a",))

    def second() -> Leaving:
        return Leaving(names, ("a",))

    choose_for(ENGINES, first)
    choose_for(ENGINES, second)
    cease_for(ENGINES, first)
    assert stopped(scheduler, ENGINES, 1) == {"a"}, "another one scales it by now"
    cease_for(ENGINES, second)
    assert stopped(scheduler, ENGINES, 1) == {"b"}


def test_a_choice_that_fails_is_serve_s(scheduler: DeploymentScheduler) -> None:
    runs(scheduler, ENGINES, "a", "b")

    def fail() -> Leaving:
        raise RuntimeError("odd")

    choose_for(ENGINES, fail)
    assert stopped(scheduler, ENGINES, 1) == {"b"}


class NoMethod:
    """A scheduler of another Ray."""

    def schedule(self) -> None: ...


class OtherParameters(NoMethod):
    def schedule(self) -> None:
        self._get_replicas_to_stop("x")

    def _get_replicas_to_stop(self, deployment: Any) -> Sequence[str]:
        return []


class NobodyAsks(NoMethod):
    def _get_replicas_to_stop(
        self,
        deployment_id: Any,
        max_num_to_stop: int,
        gang_id_by_replica: Any = None,
        replicas_by_gang_id: Any = None,
        gang_size: Any = None,
    ) -> Sequence[str]:
        return []


@pytest.mark.parametrize("kind", [NoMethod, OtherParameters, NobodyAsks])
def test_a_scheduler_of_another_ray_is_left_as_it_is(kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(victims, "_asked", {})
    before = getattr(kind, METHOD, None)
    problem = choose_for(ENGINES, lambda: Leaving({}, ()), kind)
    assert problem is not None
    assert METHOD in problem
    assert getattr(kind, METHOD, None) is before


def test_the_ray_that_is_installed_is_the_one_that_this_was_written_for() -> None:
    import inspect

    assert tuple(inspect.signature(getattr(DeploymentScheduler, METHOD)).parameters) == PARAMETERS
