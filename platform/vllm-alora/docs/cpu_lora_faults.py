"""Two faults of LoRA in vLLM's CPU build, shown on stock code: ``python docs/cpu_lora_faults.py``.

1. Wrong weights (upstream pull request 48421, open): index -1 means "no adapter", but the CPU operations gather weights
   by it, and -1 is the last slot. Once every slot is full, base tokens get the last slot's adapter.
2. Slow prefill (upstream pull request 49656, open): the same operations gather one copy of the adapter's matrices for
   every token. A matrix product for each run of tokens with one adapter gives the same numbers.

With ``--plugin`` the same calls run on vllm-alora's operations, which it puts in unless vLLM's own are right.
"""

from __future__ import annotations

import sys
import time

import torch
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

TOKENS, HIDDEN, RANK = 2048, 576, 32


def wrapper_for(slots: torch.Tensor) -> PunicaWrapperCPU:
    """Return a wrapper whose batch has the given adapter slot for each token."""
    wrapper = PunicaWrapperCPU(max_num_batched_tokens=TOKENS, max_batches=8, device="cpu")
    wrapper.indices_len[0] = len(slots)
    wrapper._token_lora_indices[: len(slots)] = slots
    wrapper._update_prefill_metadata(slots)
    wrapper.is_prefill = True
    return wrapper


def base_tokens_with_every_slot_full() -> None:
    """Two base tokens, one token of slot 0, one of slot 1, the last: the base tokens' output must stay 0."""
    a, b = torch.ones(2, 1, RANK, HIDDEN), torch.ones(2, 1, HIDDEN, RANK)
    y = torch.zeros(4, HIDDEN)
    wrapper_for(torch.tensor([-1, -1, 0, 1])).add_lora_linear(y, torch.ones(4, HIDDEN), (a,), (b,), 1.0, (HIDDEN,))
    found = y[:2].abs().max().item()
    print(f"fault 1: base tokens changed by {found:g} ({'WRONG' if found else 'right'})")


def one_prefill() -> None:
    """One adapter over a whole prompt, against a plain product of the same shape."""
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(1, 1, RANK, HIDDEN, generator=generator) / HIDDEN**0.5
    b = torch.randn(1, 1, HIDDEN, RANK, generator=generator)
    x = torch.randn(TOKENS, HIDDEN, generator=generator)
    wrapper = wrapper_for(torch.zeros(TOKENS, dtype=torch.long))
    y = torch.zeros(TOKENS, HIDDEN)
    lora_s = timed(lambda: wrapper.add_lora_linear(y, x, (a,), (b,), 1.0, (HIDDEN,)))
    plain_s = timed(lambda: x @ a[0, 0].t() @ b[0, 0].t())
    print(f"fault 2: {TOKENS} tokens take {lora_s * 1000:.1f} ms, two matrix products {plain_s * 1000:.1f} ms", end="")
    print(f": {lora_s / plain_s:.1f} times as long")


def timed(work: object) -> float:
    """Return the shortest of five runs, in seconds."""
    found = []
    for _ in range(5):
        started = time.perf_counter()
        work()  # type: ignore[operator]
        found.append(time.perf_counter() - started)
    return min(found)


if __name__ == "__main__":
    torch.set_num_threads(1)
    if "--plugin" in sys.argv[1:]:
        import vllm_alora

        vllm_alora.register()
    base_tokens_with_every_slot_full()
    one_prefill()
