"""Documents and unusual roles: rendered by templates that show them, refused by name where they would be lost."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support.character_tokenizer import TEMPLATE, CharacterTokenizer, resolve

from aloraserve.blocks import KeySpace
from aloraserve.errors import InvalidRequestError
from aloraserve.serving.prompts.prompt_builder import PromptBuilder
from aloraserve.serving.request import Origin
from aloraserve.tenants import UNTENANTED
from aloraserve.wire import ChatRequest, parse_body

SHOWS_DOCUMENTS = "{% for d in documents or [] %}[{{ d.doc_id }}: {{ d.text }}]{% endfor %}" + TEMPLATE
USUAL_ROLES_ALONE = (
    "{% for m in messages %}{% if m.role in ['system', 'user', 'assistant'] %}{{ m.content }}{% endif %}{% endfor %}"
)
HELLO = {"role": "user", "content": "hello"}


async def rendered(template: str, *messages: dict[str, Any], **fields: Any) -> str:
    builder = PromptBuilder(
        CharacterTokenizer(template), KeySpace("m", "t", 8), base_model="base", max_model_len=4096, resolve=resolve
    )
    body = {"model": "base", "messages": [HELLO, *messages]} | fields
    request = await builder.chat(parse_body(ChatRequest, json.dumps(body).encode()), Origin("r1", UNTENANTED, 0.0))
    return "".join(map(chr, request.token_ids))


DOCUMENTS = [{"text": "the sky is blue", "doc_id": "7", "title": None}]


async def test_documents_go_to_a_template_that_shows_them() -> None:
    assert await rendered(SHOWS_DOCUMENTS, documents=DOCUMENTS) == "[7: the sky is blue]u:hello\na:"


async def test_documents_that_a_template_leaves_out_are_refused() -> None:
    with pytest.raises(InvalidRequestError, match="does not show documents") as caught:
        await rendered(TEMPLATE, documents=DOCUMENTS)
    assert caught.value.param == "documents"


async def test_no_documents_are_nothing() -> None:
    assert await rendered(TEMPLATE, documents=[]) == await rendered(TEMPLATE)


async def test_documents_come_as_a_field_alone() -> None:
    with pytest.raises(InvalidRequestError, match="cannot set 'documents'"):
        await rendered(SHOWS_DOCUMENTS, chat_template_kwargs={"documents": DOCUMENTS})


@pytest.mark.parametrize("role", ["tool", "developer", "document 1"])
async def test_a_role_is_rendered_or_refused_but_never_lost(role: str) -> None:
    message = {"role": role, "content": "in it"}
    assert "in it" in await rendered(TEMPLATE, message)
    with pytest.raises(InvalidRequestError, match=role.split()[0]):
        await rendered(USUAL_ROLES_ALONE, message)


async def test_structured_template_arguments_arrive_as_they_are() -> None:
    template = TEMPLATE + "{% for s in style.list %}<{{ s }}>{% endfor %}"
    assert await rendered(template, chat_template_kwargs={"style": {"list": [1, "a"]}}) == (
        "u:hello\n[{'list': [1, 'a']}]a:<1><a>"
    )
