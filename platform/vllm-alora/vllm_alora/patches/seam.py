"""Replacing a function of vLLM: checked, marked, once."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

_MARK = "__vllm_alora__"


class UnsupportedVllmError(RuntimeError):
    """Raised when a function that this plugin must replace is missing or has other parameters than it knows."""


def require(owner: Any, name: str, *parameters: str) -> Callable[..., Any]:
    """Return ``owner.name`` if it takes at least ``parameters``.

    Raises:
        UnsupportedVllmError: it is missing or lacks a parameter; names the seam and the installed vLLM.
    """
    seam = f"{_place(owner)}.{name}"
    function = getattr(owner, name, None)
    if function is None:
        raise UnsupportedVllmError(f"vllm-alora does not know this vLLM ({vllm_version()}): {seam} is gone")
    present = inspect.signature(inspect.unwrap(function)).parameters
    missing = [parameter for parameter in parameters if parameter not in present]
    if missing and not is_patched(function):
        raise UnsupportedVllmError(
            f"vllm-alora does not know this vLLM ({vllm_version()}): {seam} takes ({', '.join(present)}), "
            f"without {', '.join(missing)}"
        )
    return function


def require_state(owner: type[Any], *attributes: str) -> None:
    """Check that a class still keeps what the plugin reads: its ``__init__`` names these attributes.

    Raises:
        UnsupportedVllmError: it does not; names the class and the attributes.
    """
    named = inspect.unwrap(owner.__init__).__code__.co_names
    missing = [attribute for attribute in attributes if attribute not in named]
    if missing:
        raise UnsupportedVllmError(
            f"vllm-alora does not know this vLLM ({vllm_version()}): {_place(owner)} has no {', '.join(missing)}"
        )


def _place(owner: Any) -> str:
    if inspect.ismodule(owner):
        return owner.__name__
    return f"{getattr(owner, '__module__', '')}.{getattr(owner, '__qualname__', owner)}".lstrip(".")


def is_patched(function: Any) -> bool:
    """Say whether ``function`` is one of ours."""
    return bool(getattr(function, _MARK, False))


def replace(owner: Any, name: str, make: Callable[[Any], Any], *parameters: str) -> None:
    """Set ``owner.name`` to ``make(original)`` unless it is ours already; checks the seam first."""
    original = require(owner, name, *parameters)
    if not is_patched(original):
        setattr(owner, name, mark(make(original)))


def mark(function: Any) -> Any:
    """Mark a replacement, so that a second load leaves it alone."""
    setattr(function, _MARK, True)
    return function


def vllm_version() -> str:
    """Return the installed vLLM's version, "unknown" if it does not say."""
    import vllm

    return str(getattr(vllm, "__version__", "unknown"))
