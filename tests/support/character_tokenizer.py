"""A tokenizer of one token per character, with a real chat template, and adapters to go with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from aloraserve.adapters import AdapterVersion
from aloraserve.errors import UnknownModelError

BEGIN = 1
VOCABULARY = 128
TEMPLATE = (
    "{% for m in messages %}"
    "{% if m.role == 'system' and not loop.first %}{{ refuse('system comes first') }}{% endif %}"
    "{{ m.role[0] }}:{{ m.content }}\n"
    "{% endfor %}"
    "{% if style is defined %}[{{ style }}]{% endif %}"
    "{% if add_generation_prompt %}a:{% endif %}"
)


class CharacterTokenizer:
    """A character is a token whose id is its code; a real template renders conversations."""

    def __init__(self, template: str = TEMPLATE) -> None:
        environment = ImmutableSandboxedEnvironment()
        environment.globals["refuse"] = self._refuse
        self._template = environment.from_string(template)

    def __len__(self) -> int:
        return VOCABULARY

    def __call__(self, text: str, *, add_special_tokens: bool) -> dict[str, list[int]]:
        return {"input_ids": [BEGIN] * add_special_tokens + [ord(character) for character in text]}

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        return [chr(number) for number in ids]

    def decode(self, ids: list[int], *, skip_special_tokens: bool = False) -> str:
        return "".join(map(chr, ids))

    def apply_chat_template(
        self,
        conversation: list[dict[str, str]],
        *,
        chat_template: str | None = None,
        continue_final_message: bool = False,
        tokenize: bool,
        add_generation_prompt: bool,
        **given: Any,
    ) -> str:
        assert not tokenize
        assert chat_template is None
        text = self._template.render(messages=conversation, add_generation_prompt=add_generation_prompt, **given)
        if not continue_final_message:
            return text
        last = conversation[-1]["content"]
        return text[: text.rindex(last) + len(last)]

    @staticmethod
    def _refuse(message: str) -> None:
        raise jinja2.TemplateError(message)


def adapter(name: str, invocation: str = "") -> AdapterVersion:
    """Return an aLoRA adapter with that invocation, or a plain LoRA without one."""
    kind = "alora" if invocation else "lora"
    ids = tuple(ord(character) for character in invocation)
    return AdapterVersion(name, kind, Path("/none"), 8, ("q_proj",), ids, f"digest of {name}")  # type: ignore[arg-type]


ADAPTERS = (adapter("plain"), adapter("safety", "<s>"), adapter("uncertain", "<u>"))


async def resolve(name: str, *, tenant: str | None = None, key: str = "") -> AdapterVersion:
    """Return one of :data:`ADAPTERS`."""
    found = next((one for one in ADAPTERS if one.name == name), None)
    if found is None:
        raise UnknownModelError(f"model {name!r} is not served", param="model")
    return found
