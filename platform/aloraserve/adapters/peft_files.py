"""A PEFT adapter's folder, validated before any engine sees it.

Weights are read from safetensors alone: a pickle can run code when it is loaded, so none ever is.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aloraserve.adapters.base import AdapterVersion
from aloraserve.adapters.shape import BaseShape
from aloraserve.adapters.weights import WEIGHTS_FILE, check_weights
from aloraserve.errors import InvalidAdapterError

CONFIG_FILE = "adapter_config.json"
SIDECAR_FILE = "aloraserve.json"
MAX_CONFIG_BYTES = 1024 * 1024
MAX_WEIGHTS_BYTES = 2 * 1024**3
MAX_INVOCATION_TOKENS = 256

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_MUST_BE: dict[str, tuple[Any, ...]] = {
    "bias": ("none",),
    "use_dora": (False,),
    "modules_to_save": ([],),
    "lora_bias": (False,),
    "fan_in_fan_out": (False,),
    "use_qalora": (False,),
    "use_bdlora": ({},),
    "layer_replication": ([],),
    "rank_pattern": ({},),
    "alpha_pattern": ({},),
    "target_parameters": ([],),
    "trainable_token_indices": ([], {}),
    "init_lora_weights": (True, False, "gaussian", "eva", "orthogonal"),
}
"""Options that change what an adapter means, and the values that are served; absent and null always are."""


@dataclass(frozen=True, slots=True)
class AdapterFiles:
    """The content of an adapter's files, read once.

    Args:
        config: ``adapter_config.json``.
        weights: ``adapter_model.safetensors``.
        untrained: whether ``aloraserve.json`` says so.
    """

    config: bytes
    weights: bytes
    untrained: bool = False

    @property
    def digest(self) -> str:
        """The hex SHA-256 of config and weights; the config's length keeps them apart."""
        return hashlib.sha256(len(self.config).to_bytes(8, "big") + self.config + self.weights).hexdigest()


def read_adapter(folder: Path, *, base: BaseShape, max_rank: int) -> AdapterVersion:
    """Return the adapter in ``folder``, which gives it its name.

    Args:
        folder: see :func:`read_files`.
        base: shape of the base model.
        max_rank: the highest rank the engine has room for.

    Raises:
        InvalidAdapterError: names the file, the value at fault and what would be accepted.
    """
    check_name(folder.name)
    return check_adapter(folder.name, folder, read_files(folder), base=base, max_rank=max_rank)


def read_files(folder: Path) -> AdapterFiles:
    """Return what is in an adapter's folder.

    Args:
        folder: holds ``adapter_config.json`` and ``adapter_model.safetensors``, and perhaps
            ``aloraserve.json`` with ``{"untrained": bool, "description": str}``.

    Raises:
        InvalidAdapterError: a file is missing, too long, unreadable or a link out of the folder.
    """
    config = _read(folder, CONFIG_FILE, MAX_CONFIG_BYTES)
    return AdapterFiles(config, _read_weights(folder), _untrained(folder))


def check_adapter(name: str, path: Path, files: AdapterFiles, *, base: BaseShape, max_rank: int) -> AdapterVersion:
    """Return the version that files are, once they are found to fit the base model.

    Args:
        name: what it is served under.
        path: the folder that the files came from.
        files: its content.
        base: shape of the base model.
        max_rank: the highest rank that is accepted.

    Raises:
        InvalidAdapterError: names the file, the value at fault and what would be accepted.
    """
    config = _json_object(files.config, CONFIG_FILE)
    targets = _check_config(config, base, max_rank)
    invocation = _invocation(config, base)
    check_weights(files.weights, base=base, rank=config["r"], targets=targets)
    return AdapterVersion(
        name=name,
        kind="alora" if invocation else "lora",
        digest=files.digest,
        path=path,
        rank=config["r"],
        target_modules=tuple(sorted(targets)),
        invocation_ids=invocation,
        untrained=files.untrained,
    )


def check_name(name: str) -> None:
    """Raise InvalidAdapterError unless ``name`` may be served."""
    if not _NAME.fullmatch(name):
        rule = "1 to 64 letters, digits, '.', '_' and '-', the first a letter or digit"
        raise InvalidAdapterError(f"the adapter's name is {name[:80]!r}; {rule} are accepted")


def _read(folder: Path, name: str, max_bytes: int) -> bytes:
    """Return a file's content; the file has to lie in the folder, also behind a symbolic link."""
    path = folder / name
    try:
        if not path.resolve(strict=True).is_relative_to(folder.resolve(strict=True)):
            raise InvalidAdapterError(f"{name} is a link out of the adapter's folder; a file in it is accepted")
        if not path.is_file():
            raise InvalidAdapterError(f"{name} is not a regular file")
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
    except (OSError, RuntimeError) as exc:
        # Not the error's own text, which has the path: refusals are shown to every tenant.
        cause = (exc.strerror if isinstance(exc, OSError) else None) or type(exc).__name__
        reason = "is missing" if isinstance(exc, FileNotFoundError) else f"cannot be read: {cause}"
        raise InvalidAdapterError(f"{name} {reason}") from exc
    if len(data) > max_bytes:
        raise InvalidAdapterError(f"{name} is above {max_bytes} bytes, the most that is accepted")
    return data


def _read_weights(folder: Path) -> bytes:
    if not (folder / WEIGHTS_FILE).exists():
        pickles = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth", "*.pkl") for path in folder.glob(pattern))
        if pickles:
            raise InvalidAdapterError(f"{pickles[0]} is a pickle, which is never loaded; save {WEIGHTS_FILE}")
    return _read(folder, WEIGHTS_FILE, MAX_WEIGHTS_BYTES)


def _json_object(data: bytes, name: str) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as exc:
        raise InvalidAdapterError(f"{name} is not valid JSON: {str(exc)[:200]}") from exc
    if not isinstance(value, dict):
        raise InvalidAdapterError(f"{name} is not a JSON object")
    return value


def _wrong(key: str, value: object, accepted: str) -> InvalidAdapterError:
    shown = repr(value)
    shown = shown if len(shown) <= 80 else shown[:77] + "..."
    return InvalidAdapterError(f"{CONFIG_FILE} has {key} {shown}; {accepted} is accepted")


def _check_config(config: dict[str, Any], base: BaseShape, max_rank: int) -> frozenset[str]:
    """Check what decides whether an adapter can be served; return the linears it changes."""
    if config.get("peft_type") != "LORA":
        raise _wrong("peft_type", config.get("peft_type"), "'LORA'")
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if type(rank) is not int or not 1 <= rank <= max_rank:
        raise _wrong("r", rank, f"an integer from 1 to {max_rank}")
    if type(alpha) not in (int, float) or not math.isfinite(alpha):  # type: ignore[arg-type]
        raise _wrong("lora_alpha", alpha, "a finite number")
    for key, values in _MUST_BE.items():
        if (found := config.get(key)) is not None and not any(_same(found, value) for value in values):
            raise _wrong(key, found, " or ".join(repr(value) for value in values))
    return _targets(config.get("target_modules"), base.linears())


def _same(found: object, value: object) -> bool:
    return type(found) is type(value) and found == value


def _targets(value: object, linears: Collection[str]) -> frozenset[str]:
    if value == "all-linear":
        return frozenset(linears)
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not names:
        raise _wrong("target_modules", value, f"a list of {', '.join(linears)}")
    targets = set()
    for name in names:
        last = name.rpartition(".")[2] if isinstance(name, str) else name
        if last not in linears:
            raise _wrong("target_modules with", name, f"{', '.join(linears)} or 'all-linear'")
        targets.add(last)
    return frozenset(targets)


def _invocation(config: dict[str, Any], base: BaseShape) -> tuple[int, ...]:
    value = config.get("alora_invocation_tokens")
    if value is None:
        return ()
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_INVOCATION_TOKENS:
        raise _wrong("alora_invocation_tokens", value, f"a list of 1 to {MAX_INVOCATION_TOKENS} token ids")
    for token in value:
        if type(token) is not int or not 0 <= token < base.vocab_size:
            accepted = f"a token id from 0 to {base.vocab_size - 1}"
            raise _wrong("alora_invocation_tokens with", token, accepted)
    return tuple(value)


def _untrained(folder: Path) -> bool:
    if not (folder / SIDECAR_FILE).exists():
        return False
    sidecar = _json_object(_read(folder, SIDECAR_FILE, MAX_CONFIG_BYTES), SIDECAR_FILE)
    untrained = sidecar.get("untrained", False)
    if not isinstance(untrained, bool):
        raise InvalidAdapterError(f"{SIDECAR_FILE} has untrained {untrained!r:.80}; true or false is accepted")
    return untrained
