"""The whole document, from the table of operations and the models in it."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

import aloraserve
from aloraserve.wire.openapi.operations import EVENTS, JSON, OPERATIONS, Operation
from aloraserve.wire.openapi.schemas import REFERENCE, RequestSchemas, Schema, answer_schemas

VERSION = "3.1.0"
KEY = "key"
_EVERY_ERROR = (500,)
_ERROR: Schema = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                # vLLM's two routes for adapters have the status there.
                "code": {"type": ["string", "integer", "null"]},
            },
        }
    },
}


def openapi_document(operations: Sequence[Operation] = OPERATIONS) -> dict[str, Any]:
    """Return the API's description in OpenAPI 3.1, as plain values.

    Args:
        operations: what it describes.
    """
    requests = RequestSchemas()
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _described(operation, requests)
    answers = [model for operation in operations for model in (operation.answer, operation.events) if model is not None]
    return {
        "openapi": VERSION,
        "info": {
            "title": "aloraserve",
            "version": aloraserve.__version__,
            "description": "One base model with many LoRA and Activated LoRA adapters. Calls are OpenAI's and vLLM's; "
            "fields that are not described here are ignored or refused, as the reference of request fields says.",
        },
        "paths": paths,
        "components": {
            "schemas": answer_schemas(answers) | requests.schemas | {"Error": _ERROR},
            "securitySchemes": {KEY: {"type": "http", "scheme": "bearer"}},
        },
    }


def _described(operation: Operation, requests: RequestSchemas) -> dict[str, Any]:
    described: dict[str, Any] = {
        "summary": operation.summary,
        "tags": [operation.tag],
        "operationId": _identifier(operation),
        "responses": _responses(operation),
        # An empty requirement stands for platforms without keys.
        "security": [{KEY: []}, {}] if operation.needs_key else [],
    }
    if parameters := _parameters(operation):
        described["parameters"] = parameters
    if operation.body is not None:
        content: dict[str, Any] = {"schema": requests.add(operation.body)}
        if operation.example is not None:
            content["example"] = dict(operation.example)
        described["requestBody"] = {"required": True, "content": {JSON: content}}
    return described


def _identifier(operation: Operation) -> str:
    words = operation.path.replace("{", "by-").replace("}", "").replace("/-/", "/serve-").strip("/")
    return f"{operation.method.lower()}-{words.replace('/', '-')}"


def _parameters(operation: Operation) -> list[dict[str, Any]]:
    chosen = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        for name in operation.parameters
    ]
    return chosen + [{"name": name, "in": "query", "schema": dict(schema)} for name, schema in operation.query.items()]


def _responses(operation: Operation) -> dict[str, Any]:
    found: dict[str, Any] = {str(operation.status): {"description": "Done", "content": _content(operation)}}
    keys = (401,) if operation.needs_key else ()
    for status in sorted({*operation.errors, *keys, *_EVERY_ERROR}):
        found[str(status)] = {"description": HTTPStatus(status).phrase} | _error(operation)
    return found


def _error(operation: Operation) -> dict[str, Any]:
    # Probes that say no say it in a word, or without one.
    return {"content": {JSON: {"schema": {"$ref": f"{REFERENCE}Error"}}}} if operation.needs_key else {}


def _content(operation: Operation) -> dict[str, Any]:
    schema: Schema = {"type": "string"}
    if operation.answer is not None:
        schema = {"$ref": f"{REFERENCE}{operation.answer.__name__}"}
    elif operation.media_type == JSON:
        schema = {}
    content = {operation.media_type: {"schema": schema}}
    if operation.events is not None:
        content[EVENTS] = {"schema": {"$ref": f"{REFERENCE}{operation.events.__name__}"}}
    return content
