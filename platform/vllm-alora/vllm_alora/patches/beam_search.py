"""Refuse beam search with aLoRA adapters (``vllm/entrypoints/generate/beam_search``), as PEFT does.

vLLM sends each beam's prompt and its generated tokens as a new prompt in every step: a generated invocation would move
the activation point.
"""

from __future__ import annotations

import functools
import inspect
from typing import Any

from vllm_alora.decision import invocation_tokens, refusal
from vllm_alora.patches.seam import replace


def apply() -> None:
    """Wrap ``beam_search`` of the server and of the offline engine."""
    from vllm.entrypoints.generate.beam_search.offline import BeamSearchOfflineMixin
    from vllm.entrypoints.generate.beam_search.online import BeamSearchOnlineMixin

    for owner in (BeamSearchOfflineMixin, BeamSearchOnlineMixin):
        replace(owner, "beam_search", _wrap, "lora_request")


def _wrap(original: Any) -> Any:
    signature = inspect.signature(original)

    @functools.wraps(original)
    def beam_search(self: Any, *args: Any, **kwargs: Any) -> Any:
        adapters = signature.bind(self, *args, **kwargs).arguments.get("lora_request")
        for adapter in adapters if isinstance(adapters, list) else [adapters]:
            if adapter is not None and invocation_tokens(adapter) is not None:
                raise refusal(
                    f"aLoRA adapter {adapter.lora_name!r} cannot be used in beam search, as in PEFT: generated tokens "
                    "become part of the prompt, and an invocation among them would move the activation point.",
                    "use_beam_search",
                )
        return original(self, *args, **kwargs)

    return beam_search
