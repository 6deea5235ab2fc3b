"""The plugin taken out of this process and put back, so that the same engine can be measured with it and without."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

MARK = "__vllm_alora__"
"""What the plugin sets on the functions that it puts in (``vllm_alora/patches/seam.py``)."""


class PluginError(Exception):
    """Raised when the plugin is not there, or cannot be taken out."""


@contextmanager
def without_plugin() -> Iterator[None]:
    """Put vLLM's own functions back in this process for a while; no request may be running.

    Raises:
        PluginError: the plugin was not there, or a function of its own has nothing to put back.
    """
    found = list(_patched())
    for owner, name, function in found:
        setattr(owner, name, inspect.unwrap(function, stop=lambda one: not hasattr(one, MARK)))
    try:
        left = [f"{owner.__name__}.{name}" for owner, name, _ in _patched()]
        if not found or left:
            raise PluginError(f"the plugin cannot be taken out: {', '.join(left) or 'it is not loaded'}")
        yield
    finally:
        for owner, name, function in found:
            setattr(owner, name, function)


def _patched() -> Iterator[tuple[Any, str, Any]]:
    """Yield every function of the plugin's in vLLM's modules and classes, with its owner and name."""
    for module_name, module in list(sys.modules.items()):
        if module_name.split(".")[0] != "vllm" or not inspect.ismodule(module):
            continue
        classes = [value for value in list(vars(module).values()) if inspect.isclass(value)]
        for owner in (module, *classes):
            for name, value in list(vars(owner).items()):
                if inspect.isfunction(value) and hasattr(value, MARK):
                    yield owner, name, value
