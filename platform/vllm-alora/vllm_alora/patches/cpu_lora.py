"""LoRA on the CPU by one matmul a segment (``vllm/lora/punica_wrapper/punica_cpu.py``).

Two faults of vLLM 0.32's CPU path matter to every LoRA user (upstream pull requests 48421 and 49656, open): it gathers
the adapter's weights once per *token*, and for index -1 ("no adapter") it gathers the last slot, so that masked and
base tokens get that adapter's weights once every slot is full. Its buffers also hold one segment per request, and a
masked request has two.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch

from vllm_alora.patches.seam import is_patched, replace

_SEEN = "_alora_filled"
Segment = tuple[int, int, int]
"""First token, end (exclusive) and adapter slot of consecutive tokens that share an adapter."""


def apply() -> None:
    """Replace the CPU wrapper's operations, unless vLLM's own are right already or this is not a CPU platform."""
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return
    from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

    if not is_patched(PunicaWrapperCPU.add_lora_linear) and is_right(PunicaWrapperCPU):
        return
    from vllm.lora.model_manager import LoRAModelManager

    replace(LoRAModelManager, "activate_adapter", _wrap_activate, "lora_id")
    replace(PunicaWrapperCPU, "_update_prefill_metadata", _wrap_metadata, "token_lora_tensor")
    replace(
        PunicaWrapperCPU,
        "add_lora_linear",
        _wrap_linear,
        "y",
        "x",
        "lora_a_stacked",
        "lora_b_stacked",
        "scale",
    )
    replace(
        PunicaWrapperCPU,
        "add_lora_logits",
        _wrap_logits,
        "y",
        "x",
        "lora_a_stacked",
        "lora_b_stacked",
        "scale",
    )
    for name, function in (
        ("_shrink_prefill", _shrink),
        ("_expand_prefill", _expand),
        ("_expand_slice_prefill", _expand_slice),
        ("_shrink_decode", _shrink),
        ("_expand_decode", _expand),
        ("_expand_slice_decode", _expand_slice),
    ):
        replace(PunicaWrapperCPU, name, functools.partial(_instead, function), "y", "x", "w_t_all")


def is_right(wrapper_class: Any) -> bool:
    """Say whether a CPU wrapper gives tokens without an adapter none, and takes more segments than requests.

    Three tokens of one request, the middle one masked, with every slot full: vLLM up to 0.32 either adds the last slot
    to the masked token or has no room for the third segment. A vLLM that passes has replaced these operations itself.
    """
    slots = torch.tensor([0, -1, 0])
    a, b = torch.ones(1, 1, 8, 4), torch.ones(1, 1, 4, 8)
    y = torch.zeros(3, 4)
    try:
        wrapper = wrapper_class(max_num_batched_tokens=8, max_batches=1, device="cpu")
        wrapper.indices_len[0] = 3
        wrapper._token_lora_indices[:3] = slots
        wrapper._update_prefill_metadata(slots)
        wrapper.is_prefill = True
        wrapper.add_lora_linear(y, torch.ones(3, 4), (a,), (b,), 1.0, (4,))
    except (RuntimeError, IndexError, AttributeError, TypeError, ValueError):
        return False
    return y.tolist() == [[32.0] * 4, [0.0] * 4, [32.0] * 4]


@functools.cache
def _has_native_bf16() -> bool:
    """Say whether this CPU multiplies bf16 faster than fp32; without it a bf16 matmul is some 20 times slower."""
    from vllm.platforms import CpuArchEnum, current_platform

    if current_platform.get_cpu_architecture() == CpuArchEnum.ARM:
        return bool(torch.cpu.get_capabilities().get("bf16", False))
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def segments_of(slots: torch.Tensor) -> list[Segment]:
    """Return the runs of tokens that use an adapter; tokens of slot -1 are in none.

    Args:
        slots: adapter slot of each token, shape [tokens], -1 for no adapter.
    """
    found: list[Segment] = []
    position = 0
    for slot, run in itertools.groupby(slots.tolist()):
        length = sum(1 for _ in run)
        if slot >= 0:
            found.append((position, position + length, slot))
        position += length
    return found


FEW_TOKENS = 32
"""Up to here a bf16 product of a thin LoRA matrix takes longer to set up than to compute; fp32 has less to set up."""


def working_dtype(dtype: torch.dtype, tokens: int) -> torch.dtype:
    """Return the type in which a product of ``tokens`` rows with a weight of ``dtype`` is fastest, never a coarser one.

    Args:
        dtype: of the weight.
        tokens: how many rows are multiplied.
    """
    if dtype == torch.bfloat16 and tokens > FEW_TOKENS and _has_native_bf16():
        return dtype
    return torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype


def matmul(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Return ``x @ weight.T`` in the working type.

    Args:
        x: [tokens, in].
        weight: [out, in].
    """
    dtype = working_dtype(weight.dtype, x.shape[0])
    return torch.mm(x.to(dtype), weight.to(dtype).t())


def add_matmul(y: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, scale: float) -> None:
    """Add ``scale * x @ weight.T`` to ``y`` in place.

    Args:
        y: [tokens, out].
        x: [tokens, in], in the working type.
        weight: [out, in].
    """
    weight = weight.to(x.dtype).t()
    if x.dtype == y.dtype:
        y.addmm_(x, weight, alpha=scale)
    else:
        y.add_(torch.mm(x, weight), alpha=scale)


class Activations:
    """How often an adapter was put into a slot: what was seen of a slot's weights holds until the next time."""

    count = 0


def is_filled(b_stacked: torch.Tensor, slot: int) -> bool:
    """Say whether a slot's adapter changes a linear at all; the answer is kept until an adapter is activated.

    vLLM wraps every linear that it can adapt, and an adapter on some of them has zeros on the others.

    Args:
        b_stacked: the linear's B matrices, shape [slots, 1, out, rank].
        slot: which of them.
    """
    seen: tuple[int, dict[int, bool]] | None = getattr(b_stacked, _SEEN, None)
    if seen is None or seen[0] != Activations.count:
        seen = (Activations.count, {})
        setattr(b_stacked, _SEEN, seen)
    if slot not in seen[1]:
        seen[1][slot] = bool(b_stacked[slot].any())
    return seen[1][slot]


def _wrap_activate(original: Any) -> Any:
    @functools.wraps(original)
    def activate_adapter(self: Any, lora_id: int) -> Any:
        # vLLM asks for each of a step's adapters in every step; False says that nothing was written.
        activated = True
        try:
            activated = original(self, lora_id)
        finally:
            Activations.count += bool(activated)
        return activated

    return activate_adapter


def _instead(function: Callable[..., None], original: Any) -> Any:
    """Return a function to call instead of vLLM's own, which can be put back from it."""

    @functools.wraps(original)
    def operation(self: Any, *args: Any, **kwargs: Any) -> None:
        function(self, *args, **kwargs)

    return operation


def _weight(stacked: torch.Tensor, slot: int) -> torch.Tensor:
    """Return one slot's matrix of a stack shaped [slots, 1, out, in] or [slots, out, in]."""
    weight = stacked[slot]
    return weight[0] if weight.dim() == 3 else weight


def _wrap_metadata(original: Any) -> Any:
    @functools.wraps(original)
    def update_prefill_metadata(self: Any, token_lora_tensor: torch.Tensor) -> None:
        # The original copies the segments into buffers of one row a request: too few here, and no longer read.
        self._alora_segments = segments_of(token_lora_tensor)
        self.no_lora = not self._alora_segments
        self.batch_size = len(self._alora_segments)
        self.token_nums = token_lora_tensor.numel()

    return update_prefill_metadata


def _segments(wrapper: Any) -> list[Segment]:
    if wrapper.is_prefill:
        found: list[Segment] = wrapper._alora_segments
        return found
    return segments_of(wrapper.token_lora_indices)


def _wrap_linear(original: Any) -> Any:
    @functools.wraps(original)
    def add_lora_linear(
        self: Any,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: tuple[torch.Tensor, ...],
        lora_b_stacked: tuple[torch.Tensor, ...],
        scale: float,
        output_slices: tuple[int, ...],
        *,
        buffer: Any = None,
        **kwargs: Any,
    ) -> None:
        if buffer is not None:
            original(self, y, x, lora_a_stacked, lora_b_stacked, scale, output_slices, buffer=buffer, **kwargs)
            return
        rows, inputs = y.view(-1, y.shape[-1]), x.view(-1, x.shape[-1])
        for start, end, slot in _segments(self):
            segment = inputs[start:end].to(working_dtype(lora_a_stacked[0].dtype, end - start))
            for a, b, (left, right) in zip(lora_a_stacked, lora_b_stacked, _columns(output_slices), strict=True):
                if is_filled(b, slot):
                    hidden = torch.mm(segment, _weight(a, slot).to(segment.dtype).t())
                    add_matmul(rows[start:end, left:right], hidden, _weight(b, slot)[: right - left], scale)

    return add_lora_linear


def _columns(widths: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    left = 0
    for width in widths:
        yield left, left + width
        left += width


def _wrap_logits(original: Any) -> Any:
    @functools.wraps(original)
    def add_lora_logits(
        self: Any,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: torch.Tensor,
        lora_b_stacked: torch.Tensor,
        scale: float,
        *,
        buffer: Any = None,
        **kwargs: Any,
    ) -> None:
        rows, inputs = y.view(-1, y.shape[-1]), x.view(-1, x.shape[-1])
        for start, end, slot in segments_of(self.sampler_indices):
            hidden = matmul(inputs[start:end], _weight(lora_a_stacked, slot))
            b = _weight(lora_b_stacked, slot)
            width = min(b.shape[0], rows.shape[1])
            add_matmul(rows[start:end, :width], hidden, b[:width], scale)

    return add_lora_logits


def _shrink(self: Any, y: torch.Tensor, x: torch.Tensor, w_t_all: torch.Tensor, scale: float) -> None:
    for start, end, slot in _segments(self):
        hidden = matmul(x[start:end], _weight(w_t_all, slot)) * scale
        y[start:end, : hidden.shape[1]] = hidden.to(y.dtype)


def _expand(self: Any, y: torch.Tensor, x: torch.Tensor, w_t_all: torch.Tensor, add_inputs: bool) -> None:
    _expand_slice(self, y, x, w_t_all, 0, y.shape[1], add_inputs)


def _expand_slice(
    self: Any,
    y: torch.Tensor,
    x: torch.Tensor,
    w_t_all: torch.Tensor,
    y_offset: int,
    y_slice_size: int,
    add_inputs: bool,
) -> None:
    for start, end, slot in _segments(self):
        out = matmul(x[start:end], _weight(w_t_all, slot))
        width = min(out.shape[1], y_slice_size)
        columns = y[start:end, y_offset : y_offset + width]
        if add_inputs:
            columns += out[:, :width].to(y.dtype)
        else:
            columns.copy_(out[:, :width])
