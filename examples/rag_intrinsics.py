"""A RAG pipeline of intrinsics (arXiv 2504.12397): is the question safe, can the documents answer it, the answer, and
how certain and how faithful that is. All of them go on from the base model's blocks. Untrained ones answer at random.

.venv/bin/python examples/rag_intrinsics.py [http://127.0.0.1:8000]
"""

from __future__ import annotations

import os
import sys
from typing import Any, cast

from openai import OpenAI
from openai.types.chat import ChatCompletionMessageParam

URL = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000"
BEFORE = ["safety", "answerability"]
AFTER = ["uncertainty", "hallucination"]
QUESTIONS = ("What does a bicycle cost on the ferry?", "Does the ferry sail in a storm?")
DOCUMENTS = (
    "Fares. A single ticket costs 4 crowns, a bicycle 2 crowns more. Children under six travel free with an adult.",
    "Weather. The ferry does not sail in a storm, that is from wind force 8 on. Tickets of cancelled trips stay valid.",
    "Timetable. The ferry leaves the old pier at 9:00, 12:30 and 17:00. In winter it leaves at 9:00 alone.",
)
client = OpenAI(base_url=f"{URL}/v1", api_key=os.environ.get("ALORASERVE_KEY", "none"))


def retrieve(question: str, count: int = 2) -> list[str]:
    words = set(question.lower().strip("?").split())
    return sorted(DOCUMENTS, key=lambda document: -len(words & set(document.lower().split())))[:count]


def show(result: dict[str, Any]) -> None:
    cached, chance = result["usage"]["cached_tokens"], result["probability"]
    print(f"  {result['name']:<14}{cached:>5} tokens reused  {result['value']!r:<24} probability {chance:.2f}")


def answer(base: str, question: str) -> None:
    """Ask what there is to ask before a question is answered, answer it, and have the answer judged."""
    system = "\n".join(["Answer from these documents alone.", *retrieve(question)])
    messages: list[ChatCompletionMessageParam] = [
        {"role": "system", "content": system},
        {"role": "user", "content": question},
    ]
    print(f"\n{question}")
    found = client.post("/intrinsics", body={"messages": messages, "intrinsics": BEFORE}, cast_to=object)
    for result in cast("dict[str, Any]", found)["results"]:
        show(result)
    chat = client.chat.completions.create(
        model=base, messages=messages, max_tokens=48, temperature=0, extra_body={"intrinsics": AFTER}
    )
    print(f"  {'answer':<14}{'':>5}                {chat.choices[0].message.content!r:.70}")
    for result in (chat.model_extra or {})["intrinsics"]:
        show(result)


if __name__ == "__main__":
    for asked in QUESTIONS:
        answer(client.models.list().data[0].id, asked)
