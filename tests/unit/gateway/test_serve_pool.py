"""Serve's replicas as a pool: what is sent, and what Serve's and Ray's errors mean."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, ReplicaUnavailableError
from support.fake_pool import request

from aloraserve.routing.receipts import Outcome
from aloraserve.serving.engine_messages import EngineCall
from aloraserve_services.channel.endpoint import ChannelVersionError, Endpoint
from aloraserve_services.gateway import serve_pool
from aloraserve_services.gateway.serve_pool import ServePool, replica_endpoints


def task_error(cause: Exception) -> RayTaskError:
    return RayTaskError("generate", "traceback", cause).as_instanceof_cause()


def named(name: str) -> Exception:
    """Return an error of a class that this process does not know, such as vLLM's."""
    error: Exception = type(name, (Exception,), {})()
    return error


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (ActorDiedError(), Outcome.LOST),
        (ActorUnavailableError("gone", b"0" * 16), Outcome.LOST),
        (DeploymentUnavailableError(SimpleNamespace(name="engine", app_name="a")), Outcome.LOST),
        (ReplicaUnavailableError("draining"), Outcome.LOST),
        (task_error(named("EngineDeadError")), Outcome.ENGINE_ENDED),
        (task_error(named("EngineGenerateError")), Outcome.LOST),
        (task_error(KeyError("x")), Outcome.FAILED),
        (task_error(TimeoutError("x")), Outcome.FAILED),
        (BackPressureError(num_queued_requests=9, max_queued_requests=9), Outcome.OVERLOADED),
        (KeyError("x"), Outcome.FAILED),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_error_means_one_outcome(error: Any, outcome: Outcome) -> None:
    assert ServePool(Handle()).outcome_of(error) is outcome


async def endpoints(answer: Any, monkeypatch: pytest.MonkeyPatch) -> Endpoint:
    """Ask replica a for its endpoint."""
    monkeypatch.setattr(serve_pool, "own_request_id", lambda: None)
    handle = Handle()

    async def remote(rank: list[str]) -> Any:
        handle.asked["rank"] = rank
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(handle, "remote", remote, raising=False)
    endpoint = await replica_endpoints(handle)("a")
    assert handle.asked == {"method_name": "endpoint", "rank": ["a"]}
    return endpoint


async def test_a_replica_is_asked_through_serve_where_its_channel_is(monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint = Endpoint("a", b"secret", "/socket")
    assert await endpoints(endpoint.as_dict(), monkeypatch) == endpoint
    assert "secret" not in repr(endpoint)
    with pytest.raises(ReplicaUnavailableError, match="b did"):
        await endpoints(Endpoint("b", b"secret", "/socket").as_dict(), monkeypatch)


@pytest.mark.parametrize("answer", [{"version": 99}, {}, task_error(AttributeError("endpoint"))])
async def test_a_replica_of_another_version_has_no_channel(answer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ChannelVersionError):
        await endpoints(answer, monkeypatch)


class Handle:
    """Serve's handle, which remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: dict[str, Any] = {}
        self.held = False

    def options(self, **options: Any) -> Handle:
        self.asked |= options
        return self

    @contextlib.asynccontextmanager
    async def choose_replica(self, rank: list[str]) -> AsyncIterator[Any]:
        self.asked["rank"], self.held = rank, True
        yield SimpleNamespace(replica_id="b")
        self.held = False

    def dispatch(self, selection: Any, call: EngineCall) -> tuple[Any, EngineCall]:
        return selection.replica_id, call


async def test_a_replica_is_chosen_by_rank_and_held_as_long_as_the_context(monkeypatch: pytest.MonkeyPatch) -> None:
    own: list[bool] = []
    monkeypatch.setattr(serve_pool, "own_request_id", lambda: own.append(True))
    handle, call = Handle(), request().engine_call("r1-1")
    async with ServePool(handle).reserve(("b", "a")) as held:
        assert handle.held
        assert (held.replica, held.send(call)) == ("b", ("b", call))
    assert not handle.held
    assert handle.asked == {"method_name": "generate", "stream": True, "rank": ["b", "a"]}
    assert own == [True]
