"""A check of an adapter without a platform: fetched by whoever runs the command, checked against the model here."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from aloraserve.adapters import AdapterReader, BaseShape
from aloraserve.adapters.management.intake import with_proof
from aloraserve.adapters.sources import SourceFetcher, SourcePolicy
from aloraserve.serving.intrinsics.form_check import form_fault
from aloraserve.serving.prompts.activation_proof import prover_of
from aloraserve.settings import Settings
from aloraserve.wire.adapter_answers import report_json
from aloraserve_services.models.hardware import preferred_dtype
from aloraserve_services.models.model_files import resolve_model

_EVERYWHERE = ("s3://", "gs://", "az://", "hf://", "oci://")


def check_here(settings: Settings, source: str, weights_sha256: str) -> dict[str, Any]:
    """Return the report on an adapter, as the platform gives it; engines' room is not looked at, as there are none.

    Args:
        settings: say which model.
        source: of the adapter: everything that this user may read.
        weights_sha256: that the weights have to have; empty: any.

    Raises:
        AdapterSourceError: it cannot be fetched.
        SettingsError: the model is not there.
    """
    from transformers import AutoTokenizer

    dtype = preferred_dtype(device=settings.device) if settings.dtype == "auto" else settings.dtype
    _, model_path = resolve_model(settings.model, settings.state_dir, dtype)
    reader = AdapterReader(base=BaseShape.read(model_path), max_rank=settings.max_lora_rank, form_fault=form_fault)
    policy = SourcePolicy.of(_EVERYWHERE, any_folder=True)
    folder = SourceFetcher(policy, lambda: Path(tempfile.mkdtemp(prefix="aloraserve-"))).fetch(
        source, weights_sha256=weights_sha256
    )
    try:
        prove = prover_of(AutoTokenizer.from_pretrained(str(model_path), local_files_only=True))
        return report_json(with_proof(reader.check(folder), "adapter", folder, prove))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
