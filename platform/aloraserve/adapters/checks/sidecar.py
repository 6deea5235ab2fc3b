"""``aloraserve.json``: what an adapter's owner says of it beside PEFT's config. Strict: a typo is an error."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from aloraserve.adapters.checks.strict_json import parse_object
from aloraserve.adapters.invocation import InvocationMode
from aloraserve.adapters.problems import plain

_Text = Annotated[str, msgspec.Meta(max_length=8192)]
# As the catalog has them.
_Label = Annotated[str, msgspec.Meta(max_length=63, pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]*\Z")]
_LabelValue = Annotated[str, msgspec.Meta(max_length=63, pattern=r"^([A-Za-z0-9][A-Za-z0-9._/-]*)?\Z")]


class ExampleMessage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A message of the example conversation.

    Args:
        role: whose it is.
        content: its text.
    """

    role: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    content: _Text


class Sidecar(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Content of ``aloraserve.json``; every field may be absent.

    Args:
        untrained: whether the weights are random, for trying the platform out.
        description: for people.
        invocation_mode: how a prompt invokes it; None to follow from the invocation.
        invocation_text: the text whose tokens ``alora_invocation_tokens`` are.
        intrinsic: what it asks and what its answers mean (:mod:`aloraserve.adapters.intrinsics.own_spec`).
        example: a conversation that is rendered to show where the adapter starts to act.
        labels: to filter by, where a registration does not say otherwise.
    """

    untrained: bool = False
    description: _Text = ""
    invocation_mode: InvocationMode | None = None
    invocation_text: _Text | None = None
    intrinsic: dict[str, Any] | None = None
    example: Annotated[tuple[ExampleMessage, ...], msgspec.Meta(max_length=64)] = ()
    labels: Annotated[dict[_Label, _LabelValue], msgspec.Meta(max_length=16)] = {}


def read_sidecar(data: bytes) -> Sidecar:
    """Return the content of ``aloraserve.json``.

    Raises:
        ValueError: it is not valid; the text is the end of a sentence about the file.
    """
    try:
        return msgspec.convert(parse_object(data), Sidecar, strict=True)
    except msgspec.ValidationError as error:
        raise ValueError(f"is not valid: {plain(str(error))}") from error
