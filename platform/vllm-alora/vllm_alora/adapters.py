"""The front end's knowledge of adapters: their invocation tokens, read once per load and kept."""

from __future__ import annotations

import json
from collections import OrderedDict
from pathlib import Path
from typing import Any

MAX_KNOWN = 4096
_Adapter = tuple[int, str, str]


class UnreadableAdapterError(Exception):
    """Raised when an adapter's configuration cannot be read, so that nobody can say whether it is an aLoRA."""


class KnownAdapters:
    """Invocation tokens by adapter, read from ``adapter_config.json`` on an adapter's first request after a load.

    Bounded: the least recently used of more than ``max_known`` adapters is read again when it comes back.

    Args:
        max_known: how many adapters are remembered.
    """

    def __init__(self, max_known: int = MAX_KNOWN) -> None:
        self._max_known = max_known
        self._invocations: OrderedDict[_Adapter, tuple[int, ...] | None] = OrderedDict()
        self._reloaded: OrderedDict[_Adapter, None] = OrderedDict()

    def invocation(self, lora_request: Any) -> tuple[int, ...] | None:
        """Return the invocation tokens of a request's adapter; None for a plain LoRA.

        Raises:
            UnreadableAdapterError: the file is missing or no valid configuration. Nothing is remembered.
        """
        adapter = _adapter(lora_request)
        if adapter not in self._invocations:
            self._invocations[adapter] = _read(lora_request)
        self._invocations.move_to_end(adapter)
        _shrink(self._invocations, self._max_known)
        return self._invocations[adapter]

    def note_load(self, lora_request: Any) -> None:
        """Forget what was read of an adapter that the engine is asked to load."""
        adapter = _adapter(lora_request)
        self._invocations.pop(adapter, None)
        if lora_request.load_inplace:
            self._reloaded[adapter] = None
            self._reloaded.move_to_end(adapter)
            _shrink(self._reloaded, self._max_known)

    def was_reloaded(self, lora_request: Any) -> bool:
        """Say whether the engine was asked to load this adapter again, by a call of its own."""
        return _adapter(lora_request) in self._reloaded


def _adapter(lora_request: Any) -> _Adapter:
    return lora_request.lora_int_id, lora_request.lora_name, lora_request.lora_path


def _shrink(kept: OrderedDict[_Adapter, Any], most: int) -> None:
    while len(kept) > most:
        kept.popitem(last=False)


def _read(lora_request: Any) -> tuple[int, ...] | None:
    from vllm.lora.utils import get_adapter_absolute_path

    # vLLM up to 0.31 also reads adapters that tensorizer wrote, from another folder.
    tensorized = getattr(lora_request, "tensorizer_config_dict", None)
    folder = tensorized.get("tensorizer_dir") if tensorized else get_adapter_absolute_path(lora_request.lora_path)
    try:
        config = json.loads((Path(str(folder)) / "adapter_config.json").read_text("utf-8"))
        tokens = config.get("alora_invocation_tokens")
        return tuple(int(token) for token in tokens) if tokens else None
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UnreadableAdapterError(
            f"adapter_config.json of {lora_request.lora_name!r} cannot be read ({type(error).__name__})"
        ) from error


ADAPTERS = KnownAdapters()
"""This process's."""
