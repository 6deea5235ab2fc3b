"""What a vLLM worker is asked of its adapters, mixed into its class by ``worker_extension_cls``."""

from __future__ import annotations

from typing import Any


class SlotsExtension:
    """Methods for ``collective_rpc``."""

    model_runner: Any

    def adapter_levels(self) -> tuple[list[int], list[int]]:
        """Return the ids of the adapters in the host's memory, and of those in slots (``lora/model_manager.py``)."""
        adapters = self.model_runner.lora_manager._adapter_manager
        return list(adapters.list_adapters()), [number for number in adapters.lora_index_to_id if number is not None]
