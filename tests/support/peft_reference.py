"""PEFT on transformers: what every answer of the platform has to equal, for the real model too."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def answers(
    model_path: Path, adapters_dir: Path, calls: Sequence[tuple[str, list[int]]], base: str, max_tokens: int
) -> list[dict[str, Any]]:
    """Return PEFT's greedy text token ids and log-probabilities for each (model, prompt); fp32, one call at a time."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    names = sorted({model for model, _ in calls} - {base})
    model: Any = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32, local_files_only=True)
    first, *others = names
    model = PeftModel.from_pretrained(model, adapters_dir / first, adapter_name=first)
    for name in others:
        model.load_adapter(adapters_dir / name, adapter_name=name)
    model.eval()
    found = []
    for name, prompt in calls:
        if name != base:
            model.set_adapter(name)
        off = model.disable_adapter() if name == base else contextlib.nullcontext()
        with torch.no_grad(), off:
            out = model.generate(
                input_ids=torch.tensor([prompt]),
                attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
                max_new_tokens=max_tokens,
                do_sample=False,
                output_logits=True,
                return_dict_in_generate=True,
                pad_token_id=0,
            )
        tokens = out.sequences[0, len(prompt) :].tolist()
        chances = [torch.log_softmax(step[0].float(), -1) for step in out.logits]
        logprobs = [float(chance[token]) for chance, token in zip(chances, tokens, strict=True)]
        found.append({"tokens": tokens, "logprobs": logprobs})
    return found
