"""Answer calls with one vLLM engine that caches nothing: ``one_engine.py CALLS.json ANSWERS.json``.

Only the aLoRA plugin is ours here; each call runs alone.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ.update(
    {
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_PLUGINS": "alora",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_NO_USAGE_STATS": "1",
    }
)


def main(calls_path: str, answers_path: str) -> None:
    """Read the calls, write the answers."""
    from vllm import LLM, SamplingParams
    from vllm.lora.request import LoRARequest

    request = json.loads(Path(calls_path).read_text())
    names = sorted({model for model, _ in request["calls"]} - {request["base"]})
    loras = {
        name: LoRARequest(name, number, str(Path(request["adapters"]) / name)) for number, name in enumerate(names, 1)
    }
    llm = LLM(
        model=request["model"],
        dtype="float32",
        max_model_len=2048,
        block_size=32,
        enforce_eager=True,
        enable_prefix_caching=False,
        enable_lora=True,
        max_loras=len(names),
        max_lora_rank=32,
    )
    params = SamplingParams(max_tokens=12, temperature=0, logprobs=0)
    answers: list[dict[str, Any]] = []
    for model, token_ids in request["calls"]:
        prompt = {"prompt_token_ids": token_ids}
        (output,) = llm.generate([prompt], params, lora_request=loras.get(model), use_tqdm=False)
        choice = output.outputs[0]
        chosen = [step[token].logprob for step, token in zip(choice.logprobs, choice.token_ids, strict=True)]
        answers.append({"text": choice.text, "logprobs": chosen})
    Path(answers_path).write_text(json.dumps(answers))


if __name__ == "__main__":
    main(*sys.argv[1:])
