"""Texts that rows are made of, in YAML files beside this one."""

from __future__ import annotations

import functools
import re
from importlib.resources import files
from typing import Any

import yaml

from aloraserve_services.intrinsics.draw import Draw

_SLOT = re.compile(r"\{(\w+)\}")


@functools.cache
def read_texts(name: str) -> dict[str, Any]:
    """Return the content of a file of texts.

    Args:
        name: of the file, without its ending.
    """
    content = files("aloraserve_services.intrinsics").joinpath("texts", f"{name}.yaml").read_text("utf-8")
    texts: dict[str, Any] = yaml.safe_load(content)
    return texts


def fill(template: str, slots: dict[str, Any], draw: Draw) -> str:
    """Return a template whose slots are filled: a list gives one of its entries, a text itself."""

    def value(match: re.Match[str]) -> str:
        options = slots[match[1]]
        return str(draw.pick(options)) if isinstance(options, list) else str(options)

    return _SLOT.sub(value, template)
