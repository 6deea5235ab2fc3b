"""Intrinsics as a folder that mellea reads: ``adapter_index.json`` and an ``io.yaml`` for each in ``io_configs/``.

The layout is that of Granite Switch models; mellea 0.8 reads it by ``EmbeddedIntrinsicAdapter.from_model_directory``.
Its client then calls the base model with ``chat_template_kwargs.adapter_name``.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from aloraserve.adapters.base import AdapterVersion, RefusedAdapter
from aloraserve.adapters.intrinsics.granite import IO_YAML_FILE
from aloraserve.adapters.intrinsics.spec import ChoiceForm, IntrinsicSpec, JsonForm
from aloraserve.errors import InvalidAdapterError

INDEX_FILE = "adapter_index.json"
CONFIGS = "io_configs"


def export_intrinsics(versions: Sequence[AdapterVersion], folder: Path) -> list[RefusedAdapter]:
    """Write the intrinsics among adapters; return those that such a folder cannot say, and why.

    Args:
        versions: adapters of any kind; one that is not an intrinsic is left out.
        folder: made here; whoever reads it sees all of it or nothing.

    Raises:
        FileExistsError: there is something already.
    """
    if folder.exists():
        raise FileExistsError(f"{folder.name!r} is there already; name a folder that is not")
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        left_out = _write(versions, work)
        work.chmod(0o755)
        work.rename(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return left_out


def _write(versions: Sequence[AdapterVersion], folder: Path) -> list[RefusedAdapter]:
    entries, left_out = [], []
    for version in versions:
        if version.intrinsic is None:
            continue
        try:
            text = io_yaml_of(version.intrinsic)
        except InvalidAdapterError as error:
            left_out.append(RefusedAdapter(version.name, error.message))
            continue
        place = f"{CONFIGS}/{version.name}/{IO_YAML_FILE}"
        (folder / place).parent.mkdir(parents=True)
        (folder / place).write_text(text)
        entries.append({"adapter_name": version.name, "io_config": place, "technology": version.kind})
    (folder / INDEX_FILE).write_text(json.dumps({"adapters": entries}, indent=2) + "\n")
    return left_out


def io_yaml_of(spec: IntrinsicSpec) -> str:
    """Return a spec as an ``io.yaml``: the file that it came from, or one that says the same.

    Raises:
        InvalidAdapterError: the adapter answers in a form that is not JSON, which granite's files cannot say.
    """
    form = spec.form
    if isinstance(form, JsonForm) and form.config:
        return form.config
    if isinstance(form, JsonForm):
        return _dumped(spec, json.loads(form.schema) if form.schema else None, None)
    if isinstance(form, ChoiceForm) and form.kind == "digit":
        likelihood = {
            "type": "likelihood",
            "input_path": [],
            "categories_to_values": dict(enumerate(form.numbers)),
        }
        return _dumped(spec, {"type": "integer", "minimum": 0, "maximum": 9}, [likelihood])
    raise InvalidAdapterError("its answers are not JSON, which an io.yaml cannot say")


def _dumped(spec: IntrinsicSpec, schema: object, transformations: list[dict[str, Any]] | None) -> str:
    parameters = {
        "max_completion_tokens": spec.parameters.max_tokens,
        "temperature": spec.parameters.temperature,
        "top_p": spec.parameters.top_p,
        "seed": spec.parameters.seed,
        "stop": list(spec.parameters.stop) or None,
    }
    config = {
        "model": None,
        "response_format": None if schema is None else json.dumps(schema),
        "transformations": transformations,
        "instruction": spec.instruction,
        "parameters": {name: value for name, value in parameters.items() if value is not None},
        "sentence_boundaries": dict(spec.sentences) or None,
        "docs_as_message": None if spec.documents == "template" else spec.documents,
    }
    return yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
