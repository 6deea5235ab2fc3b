"""The traps of Serve's routing, on a real local Ray: ranks hold, also under load, and parallel calls all arrive."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]
REPLICAS = 3


class Echo:
    """Says who it is; can also hold its process's lock, as a prefill that does not yield does."""

    def __init__(self) -> None:
        from ray import serve

        self.name = serve.get_replica_context().replica_id.unique_id
        self.most = self.running = 0

    async def whoami(self, hold_s: float = 0.0, wait_s: float = 0.0) -> Any:
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await asyncio.sleep(wait_s)
            if hold_s:
                import ctypes

                ctypes.PyDLL(None).usleep(int(hold_s * 1e6))
            yield self.name
        finally:
            self.running -= 1


class Asker:
    """Calls as the gateway does: choose by rank, then dispatch."""

    def __init__(self, echoes: Any) -> None:
        self._echoes = echoes.options(method_name="whoami", stream=True)
        self._app = __import__("ray").serve.get_replica_context().app_name

    def known(self) -> list[str]:
        from aloraserve_services.gateway.known_replicas import known_replicas

        return list(known_replicas("Echo", self._app))

    async def ask(self, rank: list[str], hold_s: float = 0.0, wait_s: float = 0.0) -> str:
        from aloraserve_services.serve_requests import own_request_id

        own_request_id()
        async with self._echoes.choose_replica(rank=rank) as selection:
            async for name in self._echoes.dispatch(selection, hold_s=hold_s, wait_s=wait_s):
                return str(name)
        raise AssertionError("no answer")

    async def ask_all(self, ranks: list[list[str]], wait_s: float = 0.2) -> list[str]:
        """Make calls at once, within one request."""
        return list(await asyncio.gather(*(self.ask(rank, wait_s=wait_s) for rank in ranks)))

    async def cpu_while_full(self, rank: list[str], seconds: float) -> float:
        """Return the share of a core that this process spends while a call waits for a slot."""
        blockers = [asyncio.create_task(self.ask(rank, wait_s=seconds + 30)) for _ in range(REPLICAS * 4)]
        for _ in range(10):
            waiting = asyncio.create_task(self.ask(rank))
            # One that is answered came before some of those.
            if not (await asyncio.wait({waiting}, timeout=3.0))[0]:
                break
        process = psutil.Process()
        before = sum(process.cpu_times()[:2])
        await asyncio.sleep(seconds)
        spent = sum(process.cpu_times()[:2]) - before
        assert not waiting.done(), "every slot was meant to be taken"
        for task in (waiting, *blockers):
            task.cancel()
        await asyncio.gather(waiting, *blockers, return_exceptions=True)
        return spent / seconds


@pytest.fixture(scope="module")
def asker() -> Iterator[Any]:
    import ray
    from ray import serve
    from ray.serve.config import RequestRouterConfig

    from aloraserve_services.gateway.ranked_router import RankedRequestRouter

    ray.init(
        address="local",
        num_cpus=REPLICAS + 1,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=128 << 20,
        # Every call probes, as one does after ten quiet seconds.
        runtime_env={"env_vars": {"RAY_SERVE_QUEUE_LENGTH_CACHE_TIMEOUT_S": "0.01"}},
    )
    serve.start(proxy_location="Disabled", logging_config={"log_level": "WARNING"})
    echoes = serve.deployment(
        Echo,
        name="Echo",
        num_replicas=REPLICAS,
        max_ongoing_requests=4,
        ray_actor_options={"num_cpus": 0},
        request_router_config=RequestRouterConfig(request_router_class=RankedRequestRouter),
    ).bind()
    handle = serve.run(
        serve.deployment(Asker, name="Asker", ray_actor_options={"num_cpus": 0}, max_ongoing_requests=200).bind(echoes),
        name="asking",
        route_prefix=None,
    )
    deadline = time.monotonic() + 60
    while len(handle.known.remote().result(timeout_s=30)) < REPLICAS:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    yield handle
    serve.shutdown()
    ray.shutdown()


@pytest.fixture
def names(asker: Any) -> list[str]:
    found: list[str] = asker.known.remote().result(timeout_s=30)
    return found


def test_the_first_in_rank_gets_the_call(asker: Any, names: list[str]) -> None:
    for name in names:
        rank = [name, *(other for other in names if other != name)]
        assert [asker.ask.remote(rank).result(timeout_s=30) for _ in range(4)] == [name] * 4


def test_unknown_names_are_passed_over_and_an_empty_rank_finds_somebody(asker: Any, names: list[str]) -> None:
    assert asker.ask.remote(["gone", names[2]]).result(timeout_s=30) == names[2]
    assert asker.ask.remote([]).result(timeout_s=30) in names


def test_calls_at_once_within_one_request_all_go_where_they_were_meant_to(asker: Any, names: list[str]) -> None:
    ranks = [[name, *(other for other in names if other != name)] for name in names * 4]
    assert asker.ask_all.remote(ranks).result(timeout_s=60) == names * 4


def test_a_replica_that_is_slow_to_answer_keeps_its_call(asker: Any, names: list[str]) -> None:
    """Serve's own deadline of 0.1 s for a queue length would send the call elsewhere."""
    slow = names[1]
    rank = [slow, *(other for other in names if other != slow)]
    for _ in range(3):
        busy = asker.ask.remote(rank, hold_s=0.8)
        time.sleep(0.2)
        behind = asker.ask.remote(rank)
        assert behind.result(timeout_s=30) == slow
        assert busy.result(timeout_s=30) == slow


def test_a_full_replica_s_calls_go_to_the_next_in_rank(asker: Any, names: list[str]) -> None:
    rank = [names[0], names[2], names[1]]
    found = asker.ask_all.remote([rank] * 6, wait_s=8.0).result(timeout_s=60)
    assert sorted(found) == sorted([names[0]] * 4 + [names[2]] * 2)


def test_waiting_for_a_slot_does_not_spin(asker: Any, names: list[str]) -> None:
    assert asker.cpu_while_full.remote(names, 3.0).result(timeout_s=60) < 0.5
