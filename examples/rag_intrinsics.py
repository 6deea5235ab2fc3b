"""A RAG pipeline of intrinsics: the base model answers over documents, then aLoRA adapters judge the answer at once.

.venv/bin/python examples/rag_intrinsics.py [http://127.0.0.1:8000]
"""

from __future__ import annotations

import asyncio
import os
import sys

from openai import AsyncOpenAI
from openai.types.chat import ChatCompletion, ChatCompletionMessageParam

URL = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000"
INTRINSICS = ("uncertainty", "safety", "hallucination")
QUESTIONS = ("What does a bicycle cost on the ferry?", "Does the ferry sail in a storm?")
DOCUMENTS = (
    "Fares. A single ticket costs 4 crowns, a bicycle 2 crowns more. Children under six travel free with an adult.",
    "Weather. The ferry does not sail in a storm, that is from wind force 8 on. Tickets of cancelled trips stay valid.",
    "Timetable. The ferry leaves the old pier at 9:00, 12:30 and 17:00. In winter it leaves at 9:00 alone.",
)


def retrieve(question: str, count: int = 2) -> list[str]:
    words = set(question.lower().strip("?").split())
    return sorted(DOCUMENTS, key=lambda document: -len(words & set(document.lower().split())))[:count]


async def answer(client: AsyncOpenAI, base: str, question: str) -> None:
    """Answer a question and print what each intrinsic makes of the answer."""
    conversation: list[ChatCompletionMessageParam] = [
        {"role": "system", "content": "\n".join(["Answer from these documents alone.", *retrieve(question)])},
        {"role": "user", "content": question},
    ]
    reply = await client.chat.completions.create(model=base, messages=conversation, max_tokens=48, temperature=0)
    conversation.append({"role": "assistant", "content": reply.choices[0].message.content})
    print(f"\n{question}\n  {'answer':<14}{_line(reply)}")
    # All judge the same conversation, so all of them continue from the base model's blocks.
    calls = [client.chat.completions.create(model=name, messages=conversation, max_tokens=4) for name in INTRINSICS]
    for name, judgement in zip(INTRINSICS, await asyncio.gather(*calls), strict=True):
        print(f"  {name:<14}{_line(judgement)}")


def _line(reply: ChatCompletion) -> str:
    usage = reply.usage
    cached = usage.prompt_tokens_details.cached_tokens if usage and usage.prompt_tokens_details else 0
    return f"{cached:>5} tokens reused  {(reply.choices[0].message.content or '').strip()[:60]!r}"


async def main() -> None:
    client = AsyncOpenAI(base_url=f"{URL}/v1", api_key=os.environ.get("ALORASERVE_KEY", "none"))
    base = (await client.models.list()).data[0].id
    for question in QUESTIONS:
        await answer(client, base, question)


if __name__ == "__main__":
    asyncio.run(main())
