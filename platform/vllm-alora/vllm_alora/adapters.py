"""What the front end knows of an adapter: its invocation tokens, read once and kept."""

from __future__ import annotations

import json
from collections import OrderedDict
from pathlib import Path
from typing import Any

MAX_KNOWN = 4096


class InvocationTokens:
    """Invocation tokens by adapter, read from ``adapter_config.json`` on an adapter's first request.

    Bounded: the least recently used of more than ``MAX_KNOWN`` adapters is read again when it comes back. A request
    that asks vLLM to reload its adapter (``load_inplace``) reads the file again too.
    """

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[int, str, str], tuple[int, ...] | None] = OrderedDict()

    def of(self, lora_request: Any) -> tuple[int, ...] | None:
        """Return the invocation tokens of a request's adapter; None for a plain LoRA.

        An unreadable file also gives None: vLLM's own loader then refuses the adapter with its reason.
        """
        key = (lora_request.lora_int_id, lora_request.lora_name, lora_request.lora_path)
        if key not in self._known or lora_request.load_inplace:
            self._known[key] = self._read(lora_request.lora_path)
        self._known.move_to_end(key)
        while len(self._known) > MAX_KNOWN:
            self._known.popitem(last=False)
        return self._known[key]

    @staticmethod
    def _read(lora_path: str) -> tuple[int, ...] | None:
        from vllm.lora.utils import get_adapter_absolute_path

        try:
            text = (Path(get_adapter_absolute_path(lora_path)) / "adapter_config.json").read_text("utf-8")
            tokens = json.loads(text).get("alora_invocation_tokens")
        except (OSError, ValueError):
            return None
        return tuple(int(token) for token in tokens) if tokens else None
