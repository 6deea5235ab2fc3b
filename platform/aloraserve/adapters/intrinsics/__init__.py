"""Intrinsics: what an adapter asks of a conversation, and what its answers mean."""

from aloraserve.adapters.intrinsics.granite import IO_YAML_FILE
from aloraserve.adapters.intrinsics.reading import read_intrinsic
from aloraserve.adapters.intrinsics.spec import (
    ChoiceForm,
    GuardRule,
    IntrinsicParameters,
    IntrinsicSpec,
    JsonForm,
    RegexForm,
    TextForm,
)

__all__ = [
    "IO_YAML_FILE",
    "ChoiceForm",
    "GuardRule",
    "IntrinsicParameters",
    "IntrinsicSpec",
    "JsonForm",
    "RegexForm",
    "TextForm",
    "read_intrinsic",
]
