"""A prompt's first tokens that are everybody's: their blocks have no cache salt, the salt begins behind them.

How many tokens that are travels in ``SamplingParams.extra_args`` under a reserved key. It would let whoever may set it
read blocks of requests without a salt; so it counts only where :data:`TRUSTED_VARIABLE` says that every request comes
from a front end that decides it, and is refused elsewhere.
"""

from __future__ import annotations

import os
from typing import Any

from vllm_alora.activation import is_index

PUBLIC_KEY = "vllm_alora.public_tokens"
"""Reserved key of ``SamplingParams.extra_args``: how many of the request's first tokens are everybody's."""
TRUSTED_VARIABLE = "VLLM_ALORA_SHARED_PREFIXES"


def is_trusted() -> bool:
    """Say whether requests may say how much of them is everybody's.

    Raises:
        ValueError: ``VLLM_ALORA_SHARED_PREFIXES`` is neither "1" nor "0".
    """
    value = os.environ.get(TRUSTED_VARIABLE, "0")
    if value not in ("0", "1"):
        raise ValueError(f"{TRUSTED_VARIABLE} is {value!r}; accepted are '0' and '1'")
    return value == "1"


def public_tokens_of(request: Any) -> int:
    """Return how many of a request's first tokens are everybody's; 0 where nobody may say so."""
    extra_args = getattr(request.sampling_params, "extra_args", None)
    if not extra_args or PUBLIC_KEY not in extra_args or not is_trusted():
        return 0
    value = extra_args[PUBLIC_KEY]
    return value if is_index(value) else 0


def moved_salt(
    keys: tuple[Any, ...] | None, salt_key: Any, public: int, start: int, end: int
) -> tuple[Any, ...] | None:
    """Return a block's keys with the salt where it belongs: in the block of the first token that is not everybody's.

    Args:
        keys: of the block, as vLLM has them: the salt is in the first block's.
        salt_key: of the request.
        public: how many of its first tokens are everybody's.
        start: of the block.
        end: of the block, exclusive.
    """
    others = tuple(key for key in keys or () if key != salt_key)
    found = (*others, salt_key) if start <= public < end else others
    return found or None
