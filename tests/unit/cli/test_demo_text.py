"""The demo's texts have the lengths that its comparison needs, in the tokens of the model it serves."""

from __future__ import annotations

from typing import Any

import pytest

from aloraserve_services.cli.demo_text import (
    MAX_ANSWER_TOKENS,
    Conversation,
    ferry_conversation,
    glasshouse_conversation,
)
from aloraserve_services.models.model_files import _find_gguf
from aloraserve_services.models.untrained import INTRINSICS, TWIN_SUFFIX

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    """SmolLM2's tokenizer, read from the GGUF that carries it."""
    from transformers import AutoTokenizer

    gguf = _find_gguf()[0]
    return AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name, local_files_only=True)


def lengths(tokenizer: Any, conversation: Conversation, answer_tokens: int) -> list[int]:
    messages = [{"role": "system", "content": conversation.system}]
    found = []
    answer = tokenizer.decode(tokenizer.encode(conversation.turns[0].user)[:answer_tokens])
    for turn in conversation.turns:
        messages.append({"role": "user", "content": turn.user})
        prompt = tokenizer.apply_chat_template(
            messages, chat_template=CHATML, add_generation_prompt=True, return_dict=False
        )
        found.append(len(prompt))
        messages.append({"role": "assistant", "content": answer})
    return found


@pytest.mark.parametrize("answer_tokens", [0, MAX_ANSWER_TOKENS])
def test_prompts_grow_to_the_lengths_that_the_demo_compares(tokenizer: Any, answer_tokens: int) -> None:
    found = lengths(tokenizer, ferry_conversation(), answer_tokens)
    ranges = [(450, 560), (900, 1100), (1400, 1650), (1900, 2250)]
    assert all(low <= length <= high for length, (low, high) in zip(found, ranges, strict=True)), found


def test_the_second_conversation_is_as_long_as_the_first_turn(tokenizer: Any) -> None:
    assert 450 <= lengths(tokenizer, glasshouse_conversation(), 0)[0] <= 560


def test_the_conversations_differ_from_their_first_words() -> None:
    first, second = ferry_conversation().system, glasshouse_conversation().system
    assert first.split()[0] != second.split()[0]


def test_one_twin_is_first_called_at_the_end_and_the_others_return() -> None:
    plan = [turn.twins for turn in ferry_conversation().turns]
    assert plan[0] == plan[1] == plan[2]
    assert set(plan[3]) == {name + TWIN_SUFFIX for name in INTRINSICS}
    assert set(plan[3]) - set(plan[0]) == {"hallucination-lora"}
