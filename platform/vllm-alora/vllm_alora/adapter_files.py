"""An adapter's files on this machine: which kind it is, and a digest that names its weights.

Nothing here downloads: a hub adapter is read once the worker that loads it has fetched it.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vllm_alora.adapter_config import AdapterConfigError, Invocation, invocation_of

CONFIG = "adapter_config.json"
WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin", "adapter_model.pt")
"""Names that vLLM loads an adapter's weights from."""


@dataclass(frozen=True)
class AdapterFacts:
    """Facts about one load of an adapter.

    Args:
        invocation: its invocation tokens, None for a plain LoRA.
        weights: digest of its files, 32 hexadecimal digits; None if nobody can read them.
    """

    invocation: Invocation | None
    weights: str | None


def local_folder(lora_request: Any) -> Path | None:
    """Return the folder of an adapter's files, or None if it is not on this machine (yet)."""
    # vLLM up to 0.31 also reads adapters that tensorizer wrote, from another folder.
    tensorized = getattr(lora_request, "tensorizer_config_dict", None)
    path = str(tensorized.get("tensorizer_dir") if tensorized else lora_request.lora_path)
    folder = Path(os.path.expanduser(path))
    if (folder / CONFIG).is_file():
        return folder
    return None if folder.is_absolute() else _downloaded(path)


def _downloaded(hub_id: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    try:
        found = try_to_load_from_cache(hub_id, CONFIG)
    except (OSError, ValueError):
        return None
    return Path(found).parent if isinstance(found, str) else None


def read_invocation(lora_request: Any) -> tuple[Invocation | None] | None:
    """Return the adapter's invocation tokens in a tuple of one, or None if this machine has no files of it.

    Raises:
        AdapterConfigError: the configuration is no valid one.
    """
    folder = local_folder(lora_request)
    if folder is None:
        return None
    try:
        text = (folder / CONFIG).read_text("utf-8")
    except OSError:
        return None
    except UnicodeDecodeError as error:
        raise AdapterConfigError(f"{CONFIG} is not UTF-8 text") from error
    try:
        config = json.loads(text)
    except ValueError as error:
        raise AdapterConfigError(f"{CONFIG} is not valid JSON ({error})") from error
    return (invocation_of(config),)


def weights_digest(lora_request: Any) -> str | None:
    """Return a digest of the adapter's configuration and weights, or None if this machine cannot read them."""
    folder = local_folder(lora_request)
    if folder is None:
        return None
    digest = hashlib.sha256()
    found = [name for name in WEIGHTS if (folder / name).is_file()]
    try:
        for name in (CONFIG, *found):
            with (folder / name).open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    except OSError:
        return None
    return digest.hexdigest()[:32] if found else None


def read_facts(lora_request: Any) -> AdapterFacts | None:
    """Return what this machine's files say of an adapter, or None if it has none.

    Raises:
        AdapterConfigError: the configuration is no valid one.
    """
    found = read_invocation(lora_request)
    return None if found is None else AdapterFacts(found[0], weights_digest(lora_request))
