"""vLLM's own reading of what a training wrote: config, names of tensors, and their shapes. No engine is started."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from aloraserve.training import TrainingSpec
from aloraserve_services.training.run import train

PROGRAM = """\
import json, sys
from vllm.config.lora import LoRAConfig
from vllm.lora.lora_model import LoRAModel
from vllm.lora.peft_helper import PEFTHelper

found = {}
for with_plugin in (False, True):
    if with_plugin:
        import vllm_alora
        vllm_alora.register()
    for folder in sys.argv[1:]:
        helper = PEFTHelper.from_local_dir(folder, None)
        try:
            helper.validate_legal(LoRAConfig(max_lora_rank=8, max_loras=1))
        except ValueError as error:
            found[f"{folder} {with_plugin}"] = str(error)
            continue
        names = {f"{linear}_proj" for linear in "qkv"}
        loaded = LoRAModel.from_local_checkpoint(folder, names, helper, lora_model_id=1, device="cpu")
        shapes = {name: [list(of.lora_a.shape), list(of.lora_b.shape)] for name, of in loaded.loras.items()}
        found[f"{folder} {with_plugin}"] = shapes
print(json.dumps(found))
"""
SECONDS = 600


@pytest.mark.timeout(SECONDS)
def test_vllm_takes_a_lora_as_it_is_and_an_alora_with_the_plugin(
    made_spec: Callable[..., TrainingSpec], tmp_path: Path, tiny_base: Path
) -> None:
    spec = made_spec()
    alora = train(spec, tmp_path / "alora", state_dir=tmp_path / "state").folder
    lora = train(spec.twin(), tmp_path / "lora", state_dir=tmp_path / "state").folder
    command = [sys.executable, "-c", PROGRAM, str(alora), str(lora)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found[f"{alora} False"] == "vLLM does not support Activated LoRA (aLoRA)."
    base = json.loads((tiny_base / "config.json").read_text())
    layers, hidden = base["num_hidden_layers"], base["hidden_size"]
    ranks = {f"{alora} True": spec.lora.rank, f"{lora} False": spec.twin_lora.rank, f"{lora} True": spec.twin_lora.rank}
    for name, rank in ranks.items():
        assert len(found[name]) == 3 * layers
        assert all(a[0] == b[1] == rank and a[1] == hidden for a, b in found[name].values())
