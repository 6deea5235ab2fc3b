"""What vLLM's GPU LoRA kernels read of a step whose tokens are all masked.

vLLM chooses a step's CUDA graph by its requests: one whose tokens all lie before their activation point still replays
the graph with LoRA kernels. ``LoRAKernelMeta.prepare_tensors`` returns early for such a step and leaves
``token_lora_mapping`` as the step before wrote it. Dense kernels go by the list of active adapters, which is empty;
those of expert layers in naive block assignment (few tokens) go by the mapping alone.
"""

from __future__ import annotations

import functools
from typing import Any

from vllm_alora.patches.seam import replace

NO_SLOT = -1


def apply() -> None:
    """Wrap ``LoRAKernelMeta.prepare_tensors``."""
    from vllm.lora.ops.triton_ops.lora_kernel_metadata import LoRAKernelMeta

    replace(LoRAKernelMeta, "prepare_tensors", _wrap_prepare, "token_lora_mapping")


def _wrap_prepare(original: Any) -> Any:
    @functools.wraps(original)
    def prepare_tensors(self: Any, token_lora_mapping: Any) -> None:
        # All of it: a graph is padded, so that its kernels read beyond this step's tokens too.
        self.token_lora_mapping.fill_(NO_SLOT)
        original(self, token_lora_mapping)

    return prepare_tensors
