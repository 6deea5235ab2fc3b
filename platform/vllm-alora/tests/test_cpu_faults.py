"""The reproduction of vLLM's CPU faults tells the truth: wrong without the plugin, right with it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "docs" / "cpu_lora_faults.py"


@pytest.mark.parametrize(("arguments", "verdict"), [((), "WRONG"), (("--plugin",), "right")])
def test_base_tokens_get_the_last_slots_weights_only_without_the_plugin(
    arguments: tuple[str, ...], verdict: str
) -> None:
    from vllm_alora.patches.seam import vllm_version

    if not arguments and not vllm_version().startswith(("0.29.", "0.30.", "0.31.", "0.32.")):
        pytest.skip("a later vLLM has mended it")
    done = subprocess.run([sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("fault 1")]
    assert line.endswith(f"({verdict})")
