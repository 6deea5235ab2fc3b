"""A gateway whose engine answers chats as a test says, and remembers what it was asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest
import transformers

from aloraserve.serving.engine_messages import EngineCall, EngineChunk
from support.character_tokenizer import CharacterTokenizer
from support.fake_engines import Engines
from support.fake_pool import ScriptedReplies
from support.intrinsic_path import ANSWERS

TEMPLATE = (
    "{% for t in tools or [] %}{{ t.function.name }};{% endfor %}"
    "{% for m in messages %}{{ m.role[0] }}:{{ m.content }}"
    "{% for c in m.tool_calls or [] %}({{ c.function.name }}:{{ c.function.arguments.city }}){% endfor %}\n{% endfor %}"
    "{% if add_generation_prompt %}a:{% endif %}"
)
"""Shows tools by their names, and calls of one function."""
PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>'


class Script:
    """What engines answer, and what they were called with."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.answers: dict[str, Any] = dict(ANSWERS)
        self.calls: list[EngineCall] = []
        script = self

        def dispatch(self: Engines, selection: Any, call: EngineCall) -> ScriptedReplies:
            script.calls.append(call)
            answer = script.answers[call.adapter.name if call.adapter else "base"]
            return ScriptedReplies(answer if isinstance(answer, tuple) else (answer,))

        monkeypatch.setattr(Engines, "dispatch", dispatch)

    def says(self, *texts: str, reason: str = "stop") -> None:
        """Have the base model answer with these texts, piece by piece."""
        chunks = [EngineChunk(0, text, 1) for text in texts[:-1]]
        self.answers["base"] = (*chunks, EngineChunk(0, texts[-1], 1, reason))

    def prompt(self, number: int) -> str:
        """Return the prompt of a call."""
        return "".join(map(chr, self.calls[number].token_ids))


def scripted_gateway(open_gateway: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a gateway whose template shows tools."""
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", lambda *_, **__: CharacterTokenizer(TEMPLATE))
    return open_gateway(max_model_len=512, tool_parser="hermes")


def http_client(gateway: Any) -> httpx.AsyncClient:
    """Return a client of a gateway's HTTP API."""
    return httpx.AsyncClient(transport=httpx.ASGITransport(gateway.http_app()), base_url="http://localhost")
