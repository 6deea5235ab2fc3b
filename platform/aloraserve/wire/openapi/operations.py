"""Every operation of the HTTP API: a row for each method and path that gateways answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from msgspec import Struct
from pydantic import BaseModel

from aloraserve.wire.adapters import (
    AdapterCheckRequest,
    AdapterRequest,
    AliasRequest,
    LoadLoraRequest,
    ReasonRequest,
    UnloadLoraRequest,
)
from aloraserve.wire.chat import ChatRequest
from aloraserve.wire.chat_answers import ChatCompletion, ChatCompletionChunk
from aloraserve.wire.completions import Completion, CompletionRequest
from aloraserve.wire.intrinsics import IntrinsicsAnswer, IntrinsicsRequest
from aloraserve.wire.models import ModelEntry, ModelList
from aloraserve.wire.response_answers import ResponseObject
from aloraserve.wire.response_request import ResponsesRequest
from aloraserve.wire.shared_prefixes import PrefixRequest
from aloraserve.wire.tenants import KeyRequest, LimitsRequest, RotationRequest
from aloraserve.wire.tokenize import DetokenizedPrompt, DetokenizeRequest, TokenizedPrompt, TokenizeRequest
from aloraserve.wire.version import ServerVersion

JSON, TEXT, EVENTS = "application/json", "text/plain", "text/event-stream"
CALLS, MODELS, ADAPTERS, TENANTS, FLEET, PROBES = "Calls", "Models", "Adapters", "Tenants", "Fleet", "Probes"
_MODEL = "SmolLM2-135M-Instruct"
_HELLO = [{"role": "user", "content": "When does the ferry leave?"}]


@dataclass(frozen=True, slots=True)
class Operation:
    """One method at one path.

    Args:
        method: of HTTP.
        path: with ``{name}`` for each part that a client chooses.
        summary: an imperative sentence.
        tag: the group that it is shown in.
        body: what is sent, None without a body.
        example: of a body.
        answer: what comes back; None: an object of fields that the reference lists, or text.
        media_type: of the answer.
        events: each event of a streamed answer, None where nothing is streamed.
        status: of an answer.
        query: what a query may have, by name: its schema.
        errors: statuses of refusals, beside those that every operation has.
        needs_key: whether a key is asked for, where keys are set.
    """

    method: str
    path: str
    summary: str
    tag: str
    body: type[Struct] | None = None
    example: Mapping[str, Any] | None = None
    answer: type[BaseModel] | None = None
    media_type: str = JSON
    events: type[BaseModel] | None = None
    status: int = 200
    query: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: MappingProxyType({}))
    errors: Sequence[int] = ()
    needs_key: bool = True

    @property
    def parameters(self) -> list[str]:
        """Names of the parts of the path that a client chooses."""
        return [part[1:-1] for part in self.path.split("/") if part.startswith("{")]


_CALL_ERRORS = (400, 404, 408, 413, 415, 422, 429, 502, 503, 504)
_BODY_ERRORS = (400, 408, 413, 415)
_CHANGE_ERRORS = (*_BODY_ERRORS, 403, 404, 409, 503)
_ADMIN_ERRORS = (400, 403, 404, 503)
_WINDOW = MappingProxyType({"window": {"type": "string", "pattern": "^[1-9][0-9]{0,5}[smh]$", "default": "1h"}})
_DAYS = MappingProxyType({"days": {"type": "integer", "minimum": 1}})
_REASON = {"reason": "the training data were wrong"}
_FLAG = {"type": "boolean", "default": False}
_TEXT = {"type": "string"}


def _call(path: str, summary: str, body: type[Struct], example: Mapping[str, Any], **more: Any) -> Operation:
    return Operation("POST", path, summary, CALLS, body, example, errors=_CALL_ERRORS, **more)


def _change(method: str, path: str, summary: str, body: type[Struct] | None = None, **more: Any) -> Operation:
    tag = more.pop("tag", ADAPTERS)
    return Operation(method, path, summary, tag, body, errors=_CHANGE_ERRORS, **more)


def _probe(method: str, path: str, summary: str, media_type: str = TEXT, **more: Any) -> Operation:
    return Operation(method, path, summary, PROBES, media_type=media_type, needs_key=False, **more)


OPERATIONS: tuple[Operation, ...] = (
    _call(
        "/v1/chat/completions",
        "Answer a conversation",
        ChatRequest,
        {"model": _MODEL, "messages": _HELLO, "max_tokens": 64},
        answer=ChatCompletion,
        events=ChatCompletionChunk,
    ),
    _call(
        "/v1/completions",
        "Continue a text or token ids, one prompt or several",
        CompletionRequest,
        {"model": _MODEL, "prompt": "The ferry leaves", "max_tokens": 16},
        answer=Completion,
        events=Completion,
    ),
    _call(
        "/v1/responses",
        "Answer a conversation, as OpenAI's Responses API does; nothing is kept",
        ResponsesRequest,
        {"model": _MODEL, "input": "When does the ferry leave?", "max_output_tokens": 64},
        answer=ResponseObject,
    ),
    _call(
        "/v1/intrinsics",
        "Run several intrinsics over one conversation",
        IntrinsicsRequest,
        {"messages": _HELLO, "intrinsics": ["safety", {"name": "uncertainty"}]},
        answer=IntrinsicsAnswer,
    ),
    _call(
        "/tokenize",
        "Return the tokens that a call's prompt has, an adapter's invocation included",
        TokenizeRequest,
        {"model": _MODEL, "messages": _HELLO},
        answer=TokenizedPrompt,
    ),
    _call(
        "/detokenize",
        "Return the text of tokens",
        DetokenizeRequest,
        {"model": _MODEL, "tokens": [504, 15187]},
        answer=DetokenizedPrompt,
    ),
    Operation("GET", "/v1/models", "List the base model and every name of an adapter", MODELS, answer=ModelList),
    Operation("GET", "/v1/models/{model}", "Say what one name is", MODELS, answer=ModelEntry, errors=(404,)),
    Operation(
        "GET",
        "/v1/adapters",
        "List versions of adapters by name",
        ADAPTERS,
        query={
            **dict.fromkeys(("prefix", "owner", "label", "after"), _TEXT),
            "state": _TEXT,
            "kind": {"enum": ["lora", "alora"]},
            "limit": {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100},
        },
        errors=(400, 403, 503),
    ),
    _change(
        "POST",
        "/v1/adapters",
        "Register an adapter, or another version of one",
        AdapterRequest,
        example={"name": "safety", "source": "s3://models/adapters/safety", "labels": {"team": "search"}},
        status=201,
    ),
    Operation("GET", "/v1/adapters/{ref}", "Show an adapter's versions and aliases", ADAPTERS, errors=(403, 404, 503)),
    _change(
        "DELETE", "/v1/adapters/{ref}", "Delete a version, or all of a name", query={"force": _FLAG, "reason": _TEXT}
    ),
    _change("POST", "/v1/adapters/{ref}/retire", "Take no new calls", ReasonRequest, example=_REASON),
    Operation("GET", "/v1/adapters/{name}/aliases", "List an adapter's aliases", ADAPTERS, errors=(403, 404, 503)),
    _change(
        "PUT",
        "/v1/adapters/{name}/aliases/{alias}",
        "Point an alias to a version, or give a version a share of its conversations",
        AliasRequest,
        example={"target": "safety@3f9c01ab54de", "share": 0.1, "reason": "trained on more"},
    ),
    _change("DELETE", "/v1/adapters/{name}/aliases/{alias}", "Remove an alias; versions stay"),
    _change(
        "POST",
        "/v1/adapters/{name}/aliases/{alias}/rollback",
        "Point an alias where it pointed before",
        ReasonRequest,
        example=_REASON,
    ),
    _change(
        "POST",
        "/v1/adapter-checks",
        "Fetch and check an adapter, and keep nothing",
        AdapterCheckRequest,
        example={"name": "safety", "source": "hf://owner/name"},
    ),
    Operation("GET", "/v1/adapter-catalog", "Give the whole catalog as one file", ADAPTERS, errors=(403, 503)),
    _change(
        "POST", "/v1/adapter-catalog", "Put the adapters of a file into the catalog", query={"skip_existing": _FLAG}
    ),
    _change(
        "POST",
        "/v1/load_lora_adapter",
        "Register an adapter, as vLLM loads one",
        LoadLoraRequest,
        example={"lora_name": "safety", "lora_path": "owner/name"},
        media_type=TEXT,
    ),
    _change(
        "POST",
        "/v1/unload_lora_adapter",
        "Delete an adapter, as vLLM unloads one",
        UnloadLoraRequest,
        example={"lora_name": "safety"},
        media_type=TEXT,
    ),
    Operation(
        "GET",
        "/v1/admin/keys",
        "List keys, without the keys themselves",
        TENANTS,
        query={"tenant": _TEXT},
        errors=_ADMIN_ERRORS,
    ),
    _change(
        "POST",
        "/v1/admin/keys",
        "Make a key; it is shown this once",
        KeyRequest,
        example={"tenant": "acme", "roles": ["invoke"], "expires_in_s": 86_400},
        status=201,
        tag=TENANTS,
    ),
    _change(
        "POST",
        "/v1/admin/keys/{id}/rotate",
        "Make a key in the place of another",
        RotationRequest,
        example={"grace_s": 3600},
        status=201,
        tag=TENANTS,
    ),
    _change("DELETE", "/v1/admin/keys/{id}", "Have a key be valid no more", tag=TENANTS),
    Operation("GET", "/v1/admin/tenants", "List tenants with their limits and keys", TENANTS, errors=_ADMIN_ERRORS),
    Operation("GET", "/v1/admin/tenants/{name}", "Show a tenant", TENANTS, errors=_ADMIN_ERRORS),
    _change(
        "PATCH",
        "/v1/admin/tenants/{name}",
        "Change some of a tenant's limits; null takes one away",
        LimitsRequest,
        example={"requests_per_minute": 600, "weight": 2},
        tag=TENANTS,
    ),
    _change("DELETE", "/v1/admin/tenants/{name}", "Delete a tenant and its keys", tag=TENANTS),
    Operation(
        "GET", "/v1/admin/shared-prefixes", "List the prefixes that all tenants share", TENANTS, errors=_ADMIN_ERRORS
    ),
    _change(
        "PUT",
        "/v1/admin/shared-prefixes/{name}",
        "Have all tenants share the blocks of a prefix",
        PrefixRequest,
        example={"messages": [{"role": "system", "content": "You are the assistant of the harbour office."}]},
        tag=TENANTS,
    ),
    _change("DELETE", "/v1/admin/shared-prefixes/{name}", "Share a prefix no more", tag=TENANTS),
    Operation("GET", "/v1/replicas", "Show what each replica holds and does", FLEET, errors=(403,)),
    Operation(
        "GET", "/v1/savings", "Show what reuse across adapters saved lately", FLEET, query=_WINDOW, errors=(400, 403)
    ),
    Operation("GET", "/v1/usage", "Show the calls and tokens of tenants", FLEET, query=_DAYS, errors=(400, 503)),
    Operation("GET", "/v1/scaling", "Show what the autoscaler decided, and why", FLEET, errors=(403,)),
    Operation(
        "GET", "/v1/diagnosis", "Show how far prompts were reused lately", FLEET, query=_WINDOW, errors=(400, 403)
    ),
    Operation(
        "GET",
        "/v1/receipts",
        "Show how the last requests were routed",
        FLEET,
        query={"limit": {"type": "integer", "minimum": 1, "default": 20}},
        errors=(400, 403),
    ),
    Operation("GET", "/v1/receipts/{request_id}", "Show how a request was routed", FLEET, errors=(403, 404)),
    Operation("GET", "/v1/metrics/targets", "List the processes that have metrics", FLEET, errors=(403, 503)),
    _probe("GET", "/version", "Say which API this is", JSON, answer=ServerVersion),
    _probe("GET", "/healthz", "Say that the gateway answers"),
    _probe("GET", "/readyz", "Say whether a call would reach a replica", errors=(503,)),
    _probe("GET", "/health", "Say so as vLLM does, without a body", errors=(503,)),
    _probe("GET", "/ping", "The same, for SageMaker", errors=(503,)),
    _probe("POST", "/ping", "The same, for SageMaker", errors=(503,)),
    _probe("GET", "/-/healthz", "Answer as Ray Serve's proxies do", errors=(503,)),
    _probe("GET", "/openapi.json", "Return this document", JSON),
    _probe("GET", "/docs", "Show this document in a browser", "text/html"),
    _probe("GET", "/docs/{file}", "Return a file of that page", "*/*", errors=(404,)),
)
