"""Generations as OpenAI's answers, whole or streamed."""

from aloraserve_services.gateway.answers.base import MAX_TOGETHER, Answer
from aloraserve_services.gateway.answers.chat import ChatAnswer, Look
from aloraserve_services.gateway.answers.completion import CompletionAnswer

__all__ = ["MAX_TOGETHER", "Answer", "ChatAnswer", "CompletionAnswer", "Look"]
