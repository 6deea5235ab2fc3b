"""The demo's conversations: questions about documents that were written for this project."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files

MAX_ANSWER_TOKENS = 48
"""What the base model's answers are cut at; the prompt lengths below count on it."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of a conversation.

    Args:
        user: the user's message, a document and a question about it.
        twins: the plain LoRA twins called after the base model's answer, beside every aLoRA adapter.
    """

    user: str
    twins: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Conversation:
    """A system message and the turns after it; prompts grow from turn to turn."""

    system: str
    turns: tuple[Turn, ...]


def ferry_conversation() -> Conversation:
    """Return the four-turn conversation, of about 500, 1,000, 1,550 and 2,100 prompt tokens for SmolLM2.

    Two twins are called from the first turn on and return on each; the third is first called at the end, so
    that a plain LoRA's whole prefill shows at about 500 and at about 2,000 tokens.
    """
    returning = ("uncertainty-lora", "safety-lora")
    return Conversation(
        system="You answer questions about a ferry company's handbook, briefly and from it alone.",
        turns=(
            _turn("harbour_and_timetable", "How long does a driver who misses check-in have to wait?", returning),
            _turn("weather_and_cancellation", "Who decides whether the Thrift sails in fog?", returning),
            _turn("safety_drills", "How many infant lifejackets do the Marram and Samphire carry?", returning),
            _turn(
                "fares_and_freight",
                "What does a resident with a blue card pay for a single crossing?",
                (*returning, "hallucination-lora"),
            ),
        ),
    )


def glasshouse_conversation() -> Conversation:
    """Return the one-turn conversation that shares nothing with the other, of about 500 prompt tokens."""
    return Conversation(
        system="Answer as the keeper of a botanic garden, in one or two plain sentences.",
        turns=(_turn("glasshouse_rounds", "Why is the cactus house left until last?", ()),),
    )


def _turn(document: str, question: str, twins: tuple[str, ...]) -> Turn:
    text = files("aloraserve_services.cli").joinpath("demo_documents", f"{document}.md").read_text("utf-8")
    return Turn(user=f"{text.strip()}\n\n{question}", twins=twins)
