"""What it takes to register an adapter, beside a plain copy of the same file to the same disk."""

from __future__ import annotations

import os
import shutil
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import json
from safetensors.numpy import save_file

from aloraserve.adapters import BaseShape
from aloraserve.adapters.management import RegistrationRequest
from aloraserve.adapters.peft_files import CONFIG_FILE, WEIGHTS_FILE
from aloraserve.adapters.store import AdapterStore
from benchmarks.adapter_gateway import GatewayParts, opened_gateway
from benchmarks.harness.report import Figure
from benchmarks.harness.stats import timed

TARGET_S = 2.0
BYTES = 4
NAME = "bench"


@dataclass(frozen=True, slots=True)
class RegisterBench:
    """Registers adapters from a folder on this machine; each round another content.

    Args:
        url: of an empty server.
        folder: for sources, copies and the store.
        shape: of the base model.
        megabytes: of an adapter's weights, about.
        rounds: medians count.
        progress: called with what happens.
    """

    url: str
    folder: Path
    shape: BaseShape
    megabytes: float
    rounds: int
    progress: Callable[[str], None]

    async def run(self) -> list[Figure]:
        """Return the figures."""
        copied, registered, size = list[float](), list[float](), 0
        store = AdapterStore(self.folder / "store")
        async with opened_gateway(self.url, store, self.shape, [str(self.folder)]) as parts:
            for number in range(self.rounds):
                self.progress(f"adapter {number + 1} of {self.rounds}")
                source = write_adapter(self.folder / f"source-{number}", self.shape, self.megabytes, number)
                size = (source / WEIGHTS_FILE).stat().st_size
                # What goes first may find the disk busy with the source.
                os.sync()
                if number % 2:
                    copied.append(self._copy(source))
                registered.append(await self._register(parts, source))
                if number % 2 == 0:
                    copied.append(self._copy(source))
        beyond = [own - plain for own, plain in zip(registered, copied, strict=True)]
        return [
            Figure("weights", size / 1e6, "MB"),
            Figure("copy and sync", statistics.median(copied), "s"),
            Figure("register, until it takes calls", statistics.median(registered), "s"),
            Figure("beyond the copy", statistics.median(beyond), "s", TARGET_S),
        ]

    async def _register(self, parts: GatewayParts, source: Path) -> float:
        async def registered() -> None:
            registration = await parts.manager.register(RegistrationRequest(NAME, str(source)))
            entry = await registration.finished()
            assert parts.registry.resolve(NAME).digest == entry.version, "the plain name stands for the new version"

        return (await timed(registered))[1]

    def _copy(self, source: Path) -> float:
        started = time.perf_counter()
        target = shutil.copyfile(source / WEIGHTS_FILE, self.folder / "copy")
        with target.open("rb") as file:
            os.fsync(file.fileno())
        return time.perf_counter() - started


def write_adapter(folder: Path, shape: BaseShape, megabytes: float, seed: int) -> Path:
    """Write a plain LoRA on all linears of a model, of the rank that comes nearest to a size; return its folder."""
    per_rank = BYTES * sum(inputs + outputs for inputs, outputs in shape.modules.values())
    rank = max(1, round(megabytes * 1e6 / per_rank))
    folder.mkdir()
    save_file(_weights(shape, rank, seed), folder / WEIGHTS_FILE)
    (folder / CONFIG_FILE).write_bytes(json.encode(_config(shape, rank)))
    return folder


def _weights(shape: BaseShape, rank: int, seed: int) -> Mapping[str, Any]:
    chooser = np.random.default_rng(seed)
    tensors = {}
    for name, (inputs, outputs) in shape.modules.items():
        for half, size in (("lora_A", (rank, inputs)), ("lora_B", (outputs, rank))):
            tensors[f"base_model.model.{name}.{half}.weight"] = chooser.standard_normal(size, dtype=np.float32) * 0.01
    return tensors


def _config(shape: BaseShape, rank: int) -> dict[str, Any]:
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "bench",
        "r": rank,
        "lora_alpha": rank,
        "bias": "none",
        "target_modules": sorted({name.rpartition(".")[2] for name in shape.modules}),
    }
