"""``/v1/adapters`` and what goes with it: bodies of requests."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, field

from aloraserve.wire.fields import RequestPart

MAX_TEXT = 2048
Text = Annotated[str, Meta(max_length=MAX_TEXT)]
ShortText = Annotated[str, Meta(max_length=300)]


class AdapterCheckRequest(RequestPart, frozen=True, kw_only=True):
    """``POST /v1/adapter-checks``: fetch and check an adapter, and keep nothing of it."""

    name: Text
    source: Text
    weights_sha256: Annotated[str, Meta(pattern=r"^([0-9a-fA-F]{64})?\Z")] = ""


class AdapterRequest(AdapterCheckRequest, frozen=True, kw_only=True):
    """``POST /v1/adapters``: register an adapter. With ``stream`` the answer is events of its progress."""

    owner: ShortText | None = None
    visibility: Literal["public", "private"] | None = None
    labels: Annotated[dict[str, str], Meta(max_length=64)] = field(default_factory=dict)
    promote: bool = True
    alias: ShortText = ""
    reason: ShortText = ""
    stream: bool = False


class AliasRequest(RequestPart, frozen=True, kw_only=True):
    """``PUT /v1/adapters/{name}/aliases/{alias}``: with a share the target is its canary, 0 ends it."""

    target: Text
    share: float | None = None
    reason: ShortText = ""


class ReasonRequest(RequestPart, frozen=True, kw_only=True):
    """A change that needs a reason at most: ``{}`` will do."""

    reason: ShortText = ""


class LoadLoraRequest(RequestPart, frozen=True, kw_only=True, forbid_unknown_fields=False):
    """vLLM's ``POST /v1/load_lora_adapter`` (``vllm/entrypoints/serve/lora/protocol.py``)."""

    lora_name: Text
    lora_path: Text
    load_inplace: bool = False


class UnloadLoraRequest(RequestPart, frozen=True, kw_only=True, forbid_unknown_fields=False):
    """vLLM's ``POST /v1/unload_lora_adapter``."""

    lora_name: Text
    lora_int_id: int | None = None
