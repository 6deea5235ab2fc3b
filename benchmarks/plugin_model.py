"""Prints the folder of SmolLM2-135M as vLLM loads it, converted once: the model of ``make bench-plugin``.

The plugin's benchmark itself knows nothing of the platform; it takes this folder by ``--model``.
"""

from __future__ import annotations

import sys

from aloraserve.settings import default_state_dir
from aloraserve_services.models.model_files import ensure_smollm2


def main() -> None:
    """Convert the model unless it is there, and print its folder."""
    print(ensure_smollm2(default_state_dir(), dtype="bfloat16", progress=lambda text: print(text, file=sys.stderr)))


if __name__ == "__main__":
    main()
