"""The trained adapter as a folder that PEFT, vLLM and this platform load."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aloraserve.adapters import BaseShape, InvocationMode
from aloraserve.adapters.checks import check_adapter
from aloraserve.adapters.intrinsics import IO_YAML_FILE
from aloraserve.adapters.peft_files import CONFIG_FILE, SIDECAR_FILE, WEIGHTS_FILE
from aloraserve.errors import StartError
from aloraserve.training import TrainingSpec
from aloraserve.training.spec import MAX_RANK
from aloraserve_services.training.written_folder import write_folder

LOG_FILE = "training_log.jsonl"
CARD_FILE = "README.md"


@dataclass(frozen=True, slots=True)
class AdapterOutput:
    """All that a trained adapter's folder has.

    Args:
        spec: of the training.
        mode: where the invocation stands.
        base_name: of the base model, for people.
        config: PEFT's.
        tensors: PEFT's state dict, in the dtype that it is kept in.
        log: of the training, an object per line.
        card: the model card.
    """

    spec: TrainingSpec
    mode: InvocationMode
    base_name: str
    config: Any
    tensors: Mapping[str, Any]
    log: Sequence[Mapping[str, Any]]
    card: str

    def write(self, folder: Path, base: BaseShape) -> None:
        """Write the folder in one step, in place of the one that is there.

        Args:
            folder: to write.
            base: shape of the base model, which the adapter is checked for.

        Raises:
            StartError: the disk does not take it, or the platform would not serve it. What was there before still is.
        """

        def fill(work: Path) -> None:
            self._fill(work)
            report = check_adapter(work, base=base, max_rank=MAX_RANK)
            if report.problems:
                raise StartError(f"the trained adapter would not be served: {report.reason}")

        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            write_folder(folder, fill)
        except Exception as error:
            # safetensors has an error of its own for a full disk.
            if not isinstance(error, OSError) and type(error).__name__ != "SafetensorError":
                raise
            why = getattr(error, "strerror", None) or str(error)
            raise StartError(
                f"the trained adapter cannot be written to {folder}: {why}. Make room, then finish with --resume"
            ) from error

    def _fill(self, folder: Path) -> None:
        from safetensors.torch import save_file

        save_file(dict(self.tensors), folder / WEIGHTS_FILE, metadata={"format": "pt"})
        config = {key: _plain(value) for key, value in sorted(self.config.to_dict().items())}
        config |= {"base_model_name_or_path": self.base_name, "inference_mode": True}
        texts = {
            CONFIG_FILE: json.dumps(config, indent=2) + "\n",
            SIDECAR_FILE: json.dumps(self._sidecar(), indent=2, ensure_ascii=False) + "\n",
            CARD_FILE: self.card,
            LOG_FILE: "".join(json.dumps(entry) + "\n" for entry in self.log),
        }
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")
        if self.spec.io_yaml is not None:
            (folder / IO_YAML_FILE).write_bytes(self.spec.io_yaml)

    def _sidecar(self) -> dict[str, Any]:
        sidecar: dict[str, Any] = {"description": self.spec.description} if self.spec.description else {}
        # For a plain LoRA too: its prompts have the text that it was trained with.
        sidecar |= {"invocation_text": self.spec.invocation, "invocation_mode": self.mode.value}
        if self.spec.own_intrinsic is not None:
            sidecar["intrinsic"] = dict(self.spec.own_intrinsic)
        return sidecar


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, set) else value
