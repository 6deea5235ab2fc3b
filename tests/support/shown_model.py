"""A model whose chat template shows documents and tools, as Granite's do."""

from __future__ import annotations

from pathlib import Path

NAME = "documents-smollm2"
_SHOWS_DOCUMENTS = (
    "{% for d in documents or [] %}<|im_start|>document {{ d.doc_id }}\n{{ d.text }}<|im_end|>\n{% endfor %}"
)
_SHOWS_TOOLS = (
    "{% if tools %}<|im_start|>system\nCall functions within <tool_call></tool_call>: "
    "{% for t in tools %}{{ t | tojson }}{% endfor %}<|im_end|>\n{% endif %}"
)


def write_shown_model(model_path: Path, root: Path) -> Path:
    """Return a folder with the files of a model, but for such a template."""
    model = root / NAME
    model.mkdir()
    for file in model_path.iterdir():
        (model / file.name).symlink_to(file)
    template = (model_path / "chat_template.jinja").read_text()
    (model / "chat_template.jinja").unlink()
    (model / "chat_template.jinja").write_text(_SHOWS_TOOLS + _SHOWS_DOCUMENTS + template)
    return model
