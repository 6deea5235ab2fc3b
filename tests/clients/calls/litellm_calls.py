"""litellm as an application uses it: chats whole, streamed, asynchronous, and with a form of the answer.

python litellm_calls.py URL MODEL
"""

from __future__ import annotations

import asyncio
import json
import sys

import litellm

URL, MODEL = sys.argv[1:3]
SAME = {"model": f"openai/{MODEL}", "api_base": f"{URL}/v1", "api_key": "none", "max_tokens": 12, "num_retries": 0}
MESSAGES = [{"role": "user", "content": "Where is the ferry?"}]
FORM = {
    "type": "json_schema",
    "json_schema": {
        "name": "answer",
        "schema": {"type": "object", "properties": {"is_late": {"type": "boolean"}}, "required": ["is_late"]},
    },
}

litellm.telemetry = False

whole = litellm.completion(messages=MESSAGES, **SAME)
assert whole.choices[0].message.content, whole
assert whole.usage.prompt_tokens > 0
print("chat")

history = [*MESSAGES, whole.choices[0].message.model_dump(), {"role": "user", "content": "And now?"}]
assert litellm.completion(messages=history, **SAME).choices[0].message.content
print("an answer sent back as history")

text = "".join(
    chunk.choices[0].delta.content or "" for chunk in litellm.completion(messages=MESSAGES, stream=True, **SAME)
)
assert text
print("streamed chat")

late = litellm.completion(messages=MESSAGES, response_format=FORM, **{**SAME, "max_tokens": 64})
assert isinstance(json.loads(late.choices[0].message.content)["is_late"], bool)
print("response_format")


async def both() -> None:
    answers = await asyncio.gather(*(litellm.acompletion(messages=MESSAGES, **SAME) for _ in range(4)))
    assert all(answer.choices[0].message.content for answer in answers)


asyncio.run(both())
print("asynchronous chats")

assert (
    litellm.text_completion(prompt="The ferry", **{**SAME, "model": f"text-completion-openai/{MODEL}"}).choices[0].text
)
print("completion")
