"""Faults that the engine tests must notice, one at a time: ``python tests/mutants.py``.

Each mutant is put into the loaded plugin, with the engine in the tests' own process; ``test_engine.py`` has to fail.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

VARIABLE = "ALORA_MUTANT"
BLOCK = 32


def mask_one_token_late() -> None:
    """The first token of the invocation is left to the base model."""
    _shift_mask(1)


def mask_one_token_early() -> None:
    """The last token before the invocation gets the adapter."""
    _shift_mask(-1)


def mask_one_block_early() -> None:
    """The last block before the invocation gets the adapter."""
    _shift_mask(-BLOCK)


def straddling_block_keyed_as_base() -> None:
    """The block that contains the activation point is shared with the base model."""
    from vllm_alora.patches import block_hash

    original = block_hash.activation_of

    def rounded_up(params: Any) -> int | None:
        activation = original(params)
        return None if activation is None else -(-activation // BLOCK) * BLOCK

    block_hash.activation_of = rounded_up


def salts_dropped() -> None:
    """Blocks before the activation point lose all of their keys, the tenant's salt too."""
    from vllm.v1.core import kv_cache_utils

    name = "generate_block_hash_extra_keys"
    original = getattr(kv_cache_utils, name)

    @functools.wraps(original)
    def without(request: Any, start: int, end: int, mm_idx: int) -> tuple[Any, int]:
        keys, mm_idx = original(request, start, end, mm_idx)
        is_base = request.lora_request is not None and not any(key[0] == "lora" for key in keys or ())
        return (None if is_base else keys), mm_idx

    for module in list(sys.modules.values()):
        if getattr(module, "__dict__", {}).get(name) is original:
            setattr(module, name, without)


def slot_minus_one_read() -> None:
    """Tokens without an adapter get the last slot's weights, as in stock vLLM with every slot full."""
    from vllm_alora.patches import cpu_lora

    original = cpu_lora.segments_of
    cpu_lora.segments_of = lambda slots: original(slots.where(slots >= 0, 3))


MUTANTS: tuple[Callable[[], None], ...] = (
    mask_one_token_late,
    mask_one_token_early,
    mask_one_block_early,
    straddling_block_keyed_as_base,
    salts_dropped,
    slot_minus_one_read,
)


def _shift_mask(tokens: int) -> None:
    from vllm_alora.patches import runner_v1, runner_v2

    runner_v1.masked_spans = runner_v2.masked_spans = shifted_spans(tokens)


def shifted_spans(tokens: int) -> Callable[..., list[tuple[int, int]]]:
    """Return ``masked_spans`` with every activation point so many tokens later."""
    from vllm_alora.patches.runner_v1 import masked_spans

    def shifted(pending: dict[str, int], *rest: Any) -> list[tuple[int, int]]:
        return masked_spans({request: activation + tokens for request, activation in pending.items()}, *rest)

    return shifted


def apply_chosen() -> None:
    """Put in the mutant that the environment names, if any; called before an engine starts."""
    name = os.environ.get(VARIABLE)
    if name:
        import vllm_alora

        vllm_alora.register()
        next(mutant for mutant in MUTANTS if mutant.__name__ == name)()


def main() -> int:
    """Run the tests against every mutant; return how many survived."""
    survivors = 0
    for mutant in MUTANTS:
        started = time.monotonic()
        environment = {**os.environ, VARIABLE: mutant.__name__, "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
        command = [sys.executable, "-m", "pytest", "-q", "-x", "tests/test_engine.py"]
        done = subprocess.run(command, cwd=Path(__file__).parents[1], env=environment, capture_output=True, text=True)
        failed = [line.split("::")[-1].split(" ")[0] for line in done.stdout.splitlines() if line.startswith("FAILED")]
        survivors += not failed
        verdict = f"noticed by {failed[0]}" if failed else f"NOT NOTICED (pytest's exit code {done.returncode})"
        print(f"{time.monotonic() - started:4.0f} s  {mutant.__name__:<32} {verdict}", flush=True)
    return survivors


if __name__ == "__main__":
    sys.exit(main())
