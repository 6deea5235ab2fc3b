"""Slots of running adapters, with vLLM's own managers: a load between steps takes none of them, nor does a step."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

import vllm_alora

SLOTS = 2


@pytest.fixture(scope="module", autouse=True)
def registered() -> None:
    """Load the plugin."""
    vllm_alora.register()


@pytest.fixture
def worker() -> Any:
    """Return vLLM's manager of a worker with two slots; its adapters have no weights."""
    from vllm.lora.model_manager import AdapterLRUCache, LRUCacheLoRAModelManager
    from vllm.lora.worker_manager import LRUCacheWorkerLoRAManager

    adapters = LRUCacheLoRAModelManager.__new__(LRUCacheLoRAModelManager)
    adapters.lora_config = SimpleNamespace(max_loras=SLOTS, max_cpu_loras=8)
    adapters._registered_adapters = AdapterLRUCache(8, adapters.deactivate_adapter)
    adapters._active_adapters = AdapterLRUCache(SLOTS, adapters._deactivate_adapter)
    adapters.lora_index_to_id = [None] * SLOTS
    adapters.modules = {}
    adapters._add_adapter = lambda lora: adapters._registered_adapters.put(lora.id, lora)
    worker = LRUCacheWorkerLoRAManager.__new__(LRUCacheWorkerLoRAManager)
    worker._adapter_manager = adapters
    worker._load_adapter = lambda request: SimpleNamespace(id=request.lora_int_id)
    return worker


def request(number: int) -> Any:
    from vllm.lora.request import LoRARequest

    return LoRARequest(f"adapter-{number}", number, f"/{number}")


def slots(worker: Any) -> list[int | None]:
    return list(worker._adapter_manager.lora_index_to_id)


def test_an_adapter_that_is_loaded_takes_a_free_slot(worker: Any) -> None:
    worker.add_adapter(request(1))
    assert slots(worker) == [1, None]


def test_an_adapter_that_is_loaded_takes_no_slot_of_another(worker: Any) -> None:
    """vLLM alone evicts the first of two that run, and the next step copies both again."""
    worker._apply_adapters({request(1), request(2)})
    before = slots(worker)
    worker.add_adapter(request(3))
    assert slots(worker) == before
    assert worker.list_adapters() == {1, 2, 3}


def test_a_step_gives_a_loaded_adapter_its_slot(worker: Any) -> None:
    worker._apply_adapters({request(1), request(2)})
    worker.add_adapter(request(3))
    worker._apply_adapters({request(3)})
    assert 3 in slots(worker)


def test_a_step_takes_no_slot_of_an_adapter_that_it_runs(worker: Any) -> None:
    """The one used longest ago runs in this step: it is not the one that leaves."""
    worker._apply_adapters({request(1)})
    worker._apply_adapters({request(2)})
    at = slots(worker).index(1)
    # A list, so that the new one comes first: vLLM gives a set.
    worker._apply_adapters([request(3), request(1)])
    assert slots(worker)[at] == 1
    assert set(slots(worker)) == {1, 3}


def test_an_adapter_is_pinned_into_a_slot_as_before(worker: Any) -> None:
    worker._apply_adapters({request(1), request(2)})
    worker.add_adapter(request(3))
    worker._adapter_manager.pin_adapter(3)
    assert 3 in slots(worker)


def test_a_load_that_fails_amid_a_step_leaves_the_next_load_as_it_should_be(worker: Any) -> None:
    worker._apply_adapters({request(1), request(2)})
    good = worker._load_adapter

    def broken(lora_request: Any) -> Any:
        raise OSError("gone")

    worker._load_adapter = broken
    with pytest.raises(OSError, match="gone"):
        worker._apply_adapters({request(3)})
    worker._load_adapter = good
    before = slots(worker)
    worker.add_adapter(request(4))
    assert slots(worker) == before
