"""A vLLM that kept its names and changed their meaning is refused when the plugin is loaded."""

from __future__ import annotations

import inspect
from types import SimpleNamespace
from typing import Any

import pytest

import vllm_alora
from vllm_alora import self_check
from vllm_alora.activation import ACTIVATION_KEY
from vllm_alora.patches import block_hash
from vllm_alora.patches.seam import UnsupportedVllmError


@pytest.fixture(scope="module", autouse=True)
def registered() -> None:
    """Load the plugin."""
    vllm_alora.register()


def check() -> None:
    self_check.check.__wrapped__()


def test_this_vllm_does_what_the_plugin_relies_on() -> None:
    check()


def request(activation: int | None) -> Any:
    from vllm.lora.request import LoRARequest

    return SimpleNamespace(
        cache_salt=None,
        lora_request=LoRARequest("a", 8765, "/a"),
        sampling_params=SimpleNamespace(extra_args=None if activation is None else {ACTIVATION_KEY: activation}),
    )


def test_a_vllm_that_orders_its_keys_otherwise_loses_no_salt() -> None:
    """Only the adapter's key goes, wherever it stands."""
    adapter, salt, image = ("lora", "a", "/a"), ("cache_salt", "tenant"), ("mm", "picture", 0)
    for keys in ((salt, adapter), (image, adapter, salt), (adapter, image, salt)):
        wrapped = block_hash._wrap(lambda *args, keys=keys: (keys, 0))
        others = tuple(key for key in keys if key != adapter)
        assert wrapped(request(8), 0, 8, 0) == (others, 0)
        assert wrapped(request(None), 0, 8, 0) == ((adapter, *others), 0)


@pytest.mark.parametrize("keys", [(("cache_salt", "tenant"),), (("adapter", "a"), ("cache_salt", "tenant"))])
def test_a_vllm_whose_keys_name_no_adapter_is_refused(keys: tuple[Any, ...]) -> None:
    """Not guessed: what is taken off might be a tenant's salt."""
    with pytest.raises(UnsupportedVllmError, match="0 are the adapter's"):
        block_hash._wrap(lambda *args: (keys, 0))(request(8), 0, 8, 0)


def test_keys_that_are_not_the_plugins_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A vLLM that hashes by another function, or that leaves salts out."""
    from vllm.v1.core import kv_cache_utils

    original = inspect.unwrap(kv_cache_utils.generate_block_hash_extra_keys)
    monkeypatch.setattr(kv_cache_utils, block_hash.NAME, original)
    with pytest.raises(UnsupportedVllmError, match="before the activation point are not the base model's"):
        check()
    unsalted = block_hash._wrap(lambda request, *rest: ((("lora", "a", "/a"),) if request.lora_request else None, 0))
    monkeypatch.setattr(kv_cache_utils, block_hash.NAME, unsalted)
    with pytest.raises(UnsupportedVllmError, match="tenants with different cache salts share blocks"):
        check()


def test_events_that_are_not_the_plugins_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.v1.core.block_pool import BlockPool

    monkeypatch.setattr(BlockPool, "_build_block_stored_event", inspect.unwrap(BlockPool._build_block_stored_event))
    with pytest.raises(UnsupportedVllmError, match="KV events name adapters on"):
        check()


@pytest.mark.parametrize("runner", ["V1", "V2"])
def test_masks_that_are_not_the_plugins_are_noticed(runner: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.v1.worker.gpu.lora_utils import LoraState
    from vllm.v1.worker.gpu_input_batch import InputBatch

    owner: Any = {"V1": InputBatch, "V2": LoraState}[runner]
    monkeypatch.setattr(owner, "make_lora_inputs", inspect.unwrap(owner.make_lora_inputs))
    with pytest.raises(UnsupportedVllmError, match=f"Model Runner {runner} gives tokens the adapters"):
        check()


def test_state_that_moved_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before a request is masked by nothing."""
    from vllm.v1.worker.gpu_input_batch import InputBatch

    monkeypatch.setattr(InputBatch, "__init__", lambda self: None)
    with pytest.raises(UnsupportedVllmError, match="InputBatch has no _req_ids, req_id_to_index"):
        check()
