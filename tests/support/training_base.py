"""Folders of base models as far as data is prepared for them: a tokenizer and two configs, no weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from support.chat_tokenizers import chat_tokenizer
from support.tiny_llama import write_tiny_llama

END = "<|end|>"
CONTEXT = 4096
WITH_DOCUMENTS = (
    "{% if documents %}{{ '<|start|>documents\n' }}{% for d in documents %}{{ d.text + '\n' }}{% endfor %}"
    "{{ '<|end|>\n' }}{% endif %}"
    "{% for m in messages %}{{ '<|start|>' + m.role + '\n' + m.content + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant\n' }}{% endif %}"
)
"""A chat template that shows documents, as Granite's do."""


def write_base(folder: Path, *, template: str = WITH_DOCUMENTS, end: object = None, context: int = CONTEXT) -> Path:
    """Write the files of a base model; return their folder.

    Args:
        folder: where to; made if it is not there.
        template: of chats.
        end: ``eos_token_id`` of the generation config; the tokenizer's if it is None.
        context: tokens that the model has room for.
    """
    tokenizer = chat_tokenizer(template=template)
    tokenizer.eos_token = END
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "max_position_embeddings": context}))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": end or tokenizer.eos_token_id}))
    return folder


def write_trainable_base(folder: Path, **config: Any) -> Path:
    """Write a base model with random weights, whose outputs depend on all that stands before; return its folder.

    Args:
        folder: where to.
        config: of the model, beside the defaults.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_tiny_llama(folder, **({"initializer_range": 0.2, "hidden_size": 64, "vocab_size": 512} | config))
    model_config = (folder / "config.json").read_bytes()
    write_base(folder)
    (folder / "config.json").write_bytes(model_config)
    return folder
