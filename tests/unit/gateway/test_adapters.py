"""A gateway's registry and manager as its plan opens them, over a real server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from safetensors.numpy import save_file
from support.peft_adapters import BASE_CONFIG, write_peft_adapter

from aloraserve.adapters.catalog import AdapterEntry, AdapterState
from aloraserve.adapters.management import RegistrationRequest, Usage
from aloraserve.directory.base import Directory, ReplicaState
from aloraserve.errors import AdapterConflictError, DirectoryUnavailableError
from aloraserve.settings import load_settings
from aloraserve_services.gateway import adapters as gateway_adapters
from aloraserve_services.gateway.adapters import GatewayAdapters
from aloraserve_services.plan import FleetPlan, make_plan


class States:
    """A directory in which replicas say what they have."""

    def __init__(self) -> None:
        self.found: Sequence[ReplicaState] = ()
        self.is_gone = False
        self.reads = 0

    async def states(self) -> Sequence[ReplicaState]:
        self.reads += 1
        if self.is_gone:
            raise DirectoryUnavailableError("gone")
        return self.found


@pytest.fixture
def made(tmp_path: Path, redis_server: Any) -> Any:
    """Make the plan of a fleet whose model has a few numbers."""
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text(json.dumps(BASE_CONFIG))
    save_file({"x": np.zeros(1, np.float32)}, model / "model.safetensors")

    def plan(**settings: Any) -> FleetPlan:
        return make_plan(
            load_settings(
                model=str(model),
                state_dir=tmp_path / "state",
                redis_url=redis_server.url,
                engine="simulated",
                dtype="float32",
                **settings,
            )
        )

    return plan


def opened(plan: FleetPlan, states: States) -> GatewayAdapters:
    return GatewayAdapters(plan, [cast(Directory, states)])


async def register(gateway: GatewayAdapters, folder: Path, name: str = "safety") -> str:
    write_peft_adapter(folder)
    return (await (await gateway.manager.register(RegistrationRequest(name, str(folder)))).finished()).version


async def loaded(gateway: GatewayAdapters) -> AdapterEntry:
    """Return the entry once it is loaded."""
    while True:
        entry = await gateway.manager.entry("safety")
        if entry.state is AdapterState.LOADED:
            return entry
        await asyncio.sleep(0.01)


async def test_a_gateway_registers_and_a_replica_serves(
    made: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway_adapters, "LOADS_NOTED_S", 0.01)
    monkeypatch.setattr(gateway_adapters, "STATES_KEPT_S", 0.01)
    plan, states = made(reserve_rank=8), States()
    gateway = opened(plan, states)
    async with gateway.running(), asyncio.timeout(20):
        digest = await register(gateway, tmp_path / "source")
        assert gateway.registry.resolve("safety").digest == digest
        replica = plan.open_registry()
        await replica.begin()
        version = replica.resolve("safety")
        assert version.digest == digest
        assert (version.path / "adapter_model.safetensors").is_file()
        await replica.close()
        key = version.key
        states.found = [
            ReplicaState("r1", "1", "engine-1", resident=(key,), slotted=(key,)),
            ReplicaState("r0", "1", "engine-0", resident=(key,), active_adapters=(key,)),
        ]
        entry = await loaded(gateway)
        assert entry.reason == "loaded by engine-0"
        assert await gateway.manager.usage(entry) == Usage(("engine-0", "engine-1"), ("engine-0",), ("engine-1",))
        await gateway.manager.retire("safety")
        with pytest.raises(AdapterConflictError, match="run on engine-0; retire it and wait for their end, or force"):
            await gateway.manager.delete("safety")
        states.is_gone = True
        await asyncio.sleep(0.02)
        assert await gateway.manager.usage(entry) == Usage()
        with pytest.raises(AdapterConflictError, match="cannot be known"):
            await gateway.manager.delete("safety")


async def test_what_was_registered_has_room_after_a_restart_with_an_empty_server(
    made: Any, tmp_path: Path, redis_server: Any
) -> None:
    gateway = opened(made(reserve_rank=8, reserve_modules=("q_proj", "down_proj")), States())
    async with gateway.running():
        await register(gateway, tmp_path / "source")
    redis_server.kill()
    redis_server.start()
    plan = await asyncio.to_thread(made)
    assert plan.limits is not None
    assert plan.limits.modules == {"q_proj", "down_proj"}
    gateway = opened(plan, States())
    async with gateway.running():
        assert [served.name for served in gateway.registry.listed()] == ["safety"]


async def test_a_fleet_without_room_for_adapters_says_what_makes_room(made: Any, tmp_path: Path) -> None:
    plan = made()
    assert plan.limits is None
    gateway = opened(plan, States())
    async with gateway.running():
        with pytest.raises(AdapterConflictError, match="set adapters_dir, or reserve_modules and reserve_rank"):
            await register(gateway, tmp_path / "source")


async def test_a_page_of_the_catalog_reads_the_directory_once(made: Any, tmp_path: Path) -> None:
    states = States()
    gateway = opened(made(reserve_rank=8), states)
    async with gateway.running():
        await register(gateway, tmp_path / "source")
        entry = await gateway.manager.entry("safety")
        before = states.reads
        await asyncio.gather(*(gateway.manager.usage(entry) for _ in range(100)))
        assert states.reads <= before + 1
