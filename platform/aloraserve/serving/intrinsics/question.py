"""From a conversation and an intrinsic to the call that asks it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from msgspec import Raw, structs

from aloraserve.adapters.intrinsics import ChoiceForm, IntrinsicSpec, JsonForm, RegexForm
from aloraserve.adapters.intrinsics.answers import Asked
from aloraserve.adapters.intrinsics.instruction import LAST_MESSAGE
from aloraserve.adapters.intrinsics.sentences import number_sentences
from aloraserve.adapters.intrinsics.transformations import TOP_LOGPROBS
from aloraserve.errors import InvalidRequestError
from aloraserve.wire.chat import ChatRequest
from aloraserve.wire.messages import ChatMessage

TEXT_TOKENS = 256
JSON_TOKENS = 1024
"""Tokens of an answer whose spec does not say how many."""
MAX_TOP_LOGPROBS = 20
_TEXT = "text"
_FIELDS = (_TEXT, "title", "doc_id")
"""Of a document in JSON, in granite-common's order: adapters were trained on it."""

Document = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Question:
    """An intrinsic's call before it is rendered.

    Args:
        body: the chat with the adapter.
        asked: what the answer's numbers of sentences refer to.
    """

    body: ChatRequest
    asked: Asked


def question(conversation: ChatRequest, model: str, spec: IntrinsicSpec, fields: Mapping[str, str]) -> Question:
    """Return what an intrinsic asks of a conversation.

    Args:
        conversation: with any model.
        model: the adapter's name.
        spec: of the intrinsic.
        fields: of its instruction.

    Raises:
        InvalidRequestError: a field is missing or unknown, or a text has a tag of numbered sentences.
    """
    messages, documents = _numbered(conversation, dict(spec.sentences))
    if documents and spec.documents != "template":
        messages, documents = [*_as_messages(documents, spec.documents), *messages], []
    messages += _instruction(model, spec, messages, fields)
    body = _body(conversation, model, spec, messages, documents)
    asked = Asked(
        [(message.role, message.text) for message in messages],
        [(document.get("doc_id"), document.get(_TEXT) or "") for document in documents],
    )
    return Question(body, asked)


def _numbered(conversation: ChatRequest, tags: Mapping[str, str]) -> tuple[list[ChatMessage], list[Document]]:
    """Return messages and documents with their sentences numbered, where the spec has a tag for them."""
    messages, documents = list(conversation.messages), list[Document](conversation.documents or [])
    for document in documents:
        if not isinstance(document.get(_TEXT), str | None):
            raise InvalidRequestError("documents has a 'text' that is not a string", param="documents")
    if "last_message" in tags:
        last = messages[-1]
        messages[-1] = structs.replace(last, content=number_sentences([last.text], tags["last_message"])[0])
    if "documents" in tags:
        texts = number_sentences([document.get(_TEXT) or "" for document in documents], tags["documents"])
        documents = [{**document, _TEXT: text} for document, text in zip(documents, texts, strict=True)]
    return messages, documents


def _as_messages(documents: Sequence[Document], how: str) -> list[ChatMessage]:
    """Return documents as granite-common writes them into messages (``move_documents_to_message``)."""
    if how == "roles":
        return [
            ChatMessage(role=f"document {document.get('doc_id') or number}", content=document.get(_TEXT) or "")
            for number, document in enumerate(documents, 1)
        ]
    if how == "json":
        listed = [{name: document[name] for name in _FIELDS if name in document} for document in documents]
        return [ChatMessage(role="user", content=json.dumps(listed))]
    texts = [f"[Document {document.get('doc_id')}]\n{document.get(_TEXT)}" for document in documents]
    return [
        ChatMessage(role="user", content="You have access to the following documents:\n\n" + "\n\n".join(texts)),
    ]


def _instruction(
    name: str, spec: IntrinsicSpec, messages: Sequence[ChatMessage], fields: Mapping[str, str]
) -> list[ChatMessage]:
    """Return the message that asks, none for an adapter that needs no words."""
    wanted = [name for name in spec.fields if name != LAST_MESSAGE]
    missing = next((name for name in wanted if name not in fields), None)
    if missing is not None:
        raise InvalidRequestError(
            f"the intrinsic {name!r} needs the field {missing!r}; its fields are {', '.join(wanted)}", param="fields"
        )
    unknown = next((name for name in fields if name not in wanted), None)
    if unknown is not None:
        accepted = f"its fields are {', '.join(wanted)}" if wanted else "it has none"
        raise InvalidRequestError(f"the intrinsic {name!r} has no field {unknown[:64]!r}; {accepted}", param="fields")
    if spec.instruction is None:
        return []
    text = spec.instruction.format_map({LAST_MESSAGE: messages[-1].text, **fields})
    return [ChatMessage(role="user", content=text)]


def _body(
    conversation: ChatRequest,
    model: str,
    spec: IntrinsicSpec,
    messages: list[ChatMessage],
    documents: Sequence[Document],
) -> ChatRequest:
    given, template = spec.parameters, conversation.client_template_kwargs()
    return ChatRequest(
        model=model,
        messages=messages,
        documents=[dict(document) for document in documents] or None,
        # What the prompt of the answer begins with, so that its blocks are found.
        tools=conversation.tools,
        tool_choice="none",
        reasoning_effort=conversation.reasoning_effort,
        priority=conversation.priority,
        chat_template_kwargs=Raw(json.dumps(template).encode()) if template else Raw(),
        max_completion_tokens=given.max_tokens or _tokens(spec),
        temperature=given.temperature,
        top_p=given.top_p,
        seed=given.seed,
        stop=Raw(json.dumps(given.stop).encode()) if given.stop else Raw(),
        logprobs=spec.needs_logprobs or None,
        top_logprobs=_top_logprobs(spec) if spec.needs_logprobs else None,
        structured_outputs=structured_of(spec),
    )


def _tokens(spec: IntrinsicSpec) -> int:
    if isinstance(spec.form, ChoiceForm):
        # No token is shorter than a byte; one ends the answer.
        return 1 + max(len(choice.encode()) for choice in spec.form.choices)
    return JSON_TOKENS if isinstance(spec.form, JsonForm) else TEXT_TOKENS


def _top_logprobs(spec: IntrinsicSpec) -> int:
    choices = len(spec.form.choices) if isinstance(spec.form, ChoiceForm) else 0
    return min(MAX_TOP_LOGPROBS, max(TOP_LOGPROBS, choices))


def structured_of(spec: IntrinsicSpec) -> Raw:
    """Return ``structured_outputs`` of a spec's form, nothing for text."""
    form = spec.form
    if isinstance(form, ChoiceForm):
        return Raw(json.dumps({"choice": form.choices}).encode())
    if isinstance(form, RegexForm):
        return Raw(json.dumps({"regex": form.pattern}).encode())
    if isinstance(form, JsonForm) and form.schema:
        return Raw(b'{"json":' + form.schema.encode() + b"}")
    return Raw()
