"""Documents that a chat's template shows the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from msgspec import Meta, json

from aloraserve.wire.fields import refusal
from aloraserve.wire.json_schema import is_deeper_than

MAX_DOCUMENTS = 256
MAX_DOCUMENT_FIELDS = 16
MAX_DOCUMENT_DEPTH = 16

Document = dict[str, Any]
Documents = Annotated[list[Document], Meta(max_length=MAX_DOCUMENTS)]
"""Each with fields whose values are texts or any other JSON."""


def check_documents(documents: Sequence[Document]) -> None:
    """Do nothing if documents have fields, and not too many or too deep ones.

    Raises:
        FieldError: one has none, or too many, or a value that is nested too deeply.
    """
    if any(not document or len(document) > MAX_DOCUMENT_FIELDS for document in documents):
        raise refusal("documents", f"has an entry without fields, or with more than {MAX_DOCUMENT_FIELDS}")
    if is_deeper_than(MAX_DOCUMENT_DEPTH, documents):
        raise refusal("documents", f"is nested deeper than {MAX_DOCUMENT_DEPTH} levels")


def document_texts(documents: Sequence[Document]) -> list[str]:
    """Return the names and values of all fields as texts."""
    values = [value for document in documents for value in (*document, *document.values()) if value is not None]
    return [value if isinstance(value, str) else json.encode(value).decode() for value in values]


def documents_for_template(documents: Sequence[Document]) -> list[Document]:
    """Return documents as chat templates take them, without what is null."""
    return [{name: value for name, value in document.items() if value is not None} for document in documents]
