"""Faults of the platform, each with the tests that must notice it; ``make mutants`` runs them.

The runner is the plugin's (``platform/vllm-alora/tests/mutation.py``): the plugin is complete without the platform.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "platform" / "vllm-alora" / "tests"))
