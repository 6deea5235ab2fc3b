"""The openai client: the base model answers, an adapter judges the answer, and both say what they reused.

.venv/bin/python examples/openai_client.py [http://127.0.0.1:8000] [adapter]
"""

from __future__ import annotations

import os
import sys

from openai import OpenAI
from openai.types.chat import ChatCompletionMessageParam

URL = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000"
ADAPTER = sys.argv[2] if len(sys.argv) > 2 else "uncertainty"
TIMETABLE = "The ferry leaves at 9:00, 12:30 and 17:00 from the old pier, in winter at 9:00 alone. " * 8


def main() -> None:
    """Stream an answer, then call the adapter on the same conversation."""
    client = OpenAI(base_url=f"{URL}/v1", api_key=os.environ.get("ALORASERVE_KEY", "none"))
    base = client.models.list().data[0].id
    conversation: list[ChatCompletionMessageParam] = [
        {"role": "system", "content": TIMETABLE},
        {"role": "user", "content": "When does the ferry leave in winter?"},
    ]

    answer = ""
    with client.chat.completions.create(model=base, messages=conversation, max_tokens=32, stream=True) as stream:
        for chunk in stream:
            answer += chunk.choices[0].delta.content or "" if chunk.choices else ""
    print(f"{base}: {answer.strip()}")

    # An adapter is a model name. The platform adds an aLoRA's invocation to the conversation.
    conversation.append({"role": "assistant", "content": answer})
    raw = client.chat.completions.with_raw_response.create(model=ADAPTER, messages=conversation, max_tokens=8)
    judgement = raw.parse()
    print(f"{ADAPTER}: {(judgement.choices[0].message.content or '').strip()}")
    usage = judgement.usage
    if usage and usage.prompt_tokens_details:
        print(f"reused {usage.prompt_tokens_details.cached_tokens} of {usage.prompt_tokens} prompt tokens", end=" ")
    print(f"on {raw.headers['x-aloraserve-replica']}: {raw.headers['x-aloraserve-reason']}")


if __name__ == "__main__":
    main()
