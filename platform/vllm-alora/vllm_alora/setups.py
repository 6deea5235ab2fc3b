"""Set-ups of vLLM that aLoRA adapters cannot be served with; adapters are refused when they are loaded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from vllm_alora.adapters import read_adapter
from vllm_alora.decision import refusal

BLOCK_CONNECTORS = frozenset(
    {
        "DecodeBenchConnector",
        "ExampleHiddenStatesConnector",
        "HiSparseConnector",
        "MoRIIOConnector",
        "MooncakeConnector",
        "MooncakeStoreConnector",
        "NixlConnector",
        "NixlPullConnector",
        "NixlPushConnector",
        "OffloadingConnector",
        "SimpleCPUOffloadConnector",
    }
)
"""KV connectors of vLLM that move blocks by vLLM's own hashes or by request. Others find blocks by their tokens,
whatever adapter computed them, or nobody knows."""

LORA_FLAGS = ("specialize_active_lora", "enable_tower_connector_lora")
"""Fields of ``LoRAConfig``: CUDA graphs that can be one adapter short; adapters in the tower, which has no mask."""


def refuse_load(config: Any, lora_request: Any) -> None:
    """Refuse an adapter that this engine cannot serve, as far as this machine can read it.

    Args:
        config: the engine's ``VllmConfig``.
        lora_request: the adapter.

    Raises:
        UnreadableAdapterError: its configuration is no valid one.
        VLLMValidationError: this engine cannot serve an aLoRA adapter.
    """
    found = read_adapter(lora_request)
    if found is not None and found[0] is not None:
        refuse_setup(config, lora_request.lora_name)


def refuse_setup(config: Any, name: str) -> None:
    """Name what would give wrong answers with an aLoRA adapter.

    Args:
        config: the engine's ``VllmConfig``.
        name: the adapter's.

    Raises:
        VLLMValidationError: the adapter cannot be served by this engine.
    """
    for flag in LORA_FLAGS:
        if getattr(config.lora_config, flag, False):
            raise refusal(f"aLoRA adapter {name!r} cannot be served with {flag}; turn it off.", "model")
    if getattr(config.cache_config, "kv_sharing_fast_prefill", False):
        raise refusal(f"aLoRA adapter {name!r} cannot be served with kv_sharing_fast_prefill; turn it off.", "model")
    if getattr(config.parallel_config, "prefill_context_parallel_size", 1) > 1:
        raise refusal(f"aLoRA adapter {name!r} cannot be served with prefill context parallelism.", "model")
    _refuse_connector(config, name)
    _refuse_platform(name)


def _refuse_connector(config: Any, name: str) -> None:
    transfer = getattr(config, "kv_transfer_config", None)
    for connector, is_vllms_own in () if transfer is None else _connectors(transfer):
        if connector not in BLOCK_CONNECTORS or not is_vllms_own:
            raise refusal(
                f"aLoRA adapter {name!r} cannot be served with {connector}, which finds blocks by tokens alone or is "
                f"not known to do otherwise. Accepted are {', '.join(sorted(BLOCK_CONNECTORS))}.",
                "model",
            )


def _connectors(transfer: Any) -> Iterator[tuple[str, bool]]:
    """Yield the KV connectors in use, those inside a ``MultiConnector`` included, and whether each is vLLM's own."""
    settings = transfer if isinstance(transfer, dict) else vars(transfer)
    connector, module = settings.get("kv_connector"), settings.get("kv_connector_module_path")
    if connector == "MultiConnector" and module is None:
        for inner in (settings.get("kv_connector_extra_config") or {}).get("connectors") or ():
            yield from _connectors(inner)
    elif connector is not None:
        yield str(connector), module is None


def _refuse_platform(name: str) -> None:
    from vllm.platforms import current_platform

    if not (current_platform.is_cuda_alike() or current_platform.is_cpu()):
        raise refusal(
            f"aLoRA adapter {name!r} cannot be served on {current_platform.device_name}: nobody has held its LoRA "
            "kernels against a mask. Accepted are CUDA, ROCm and CPU.",
            "model",
        )
