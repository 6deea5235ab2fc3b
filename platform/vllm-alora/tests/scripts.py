"""Scripts that are in no package, as modules: their folders are not on the path of a wheel's user."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

PLUGIN = Path(__file__).parents[1]


def load_script(folder: str, name: str) -> ModuleType:
    """Import a file of one of the plugin's folders.

    Args:
        folder: "benchmarks" or "gpu".
        name: of the file, without its ending.
    """
    spec = importlib.util.spec_from_file_location(f"vllm_alora_{folder}_{name}", PLUGIN / folder / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
