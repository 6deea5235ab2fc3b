"""The writers of begun calls' answers, for any edge."""

from __future__ import annotations

from aloraserve_services.gateway.answers import ChatAnswer, CompletionAnswer
from aloraserve_services.gateway.calls import BegunCall
from aloraserve_services.gateway.intrinsic_results import guard_result_of


def chat_answer(call: BegunCall) -> ChatAnswer:
    """Return the writer of a chat's answer."""
    answer = ChatAnswer.of(call.first)
    answer.guards = [guard_result_of(verdict) for verdict in call.guards]
    if call.look is not None:
        answer.look_with(call.look)
    return answer


def completion_answer(call: BegunCall) -> CompletionAnswer:
    """Return the writer of a completion's answer, which may be to several prompts."""
    is_single = len(call.requests) == 1
    return CompletionAnswer.of(call.first) if is_single else CompletionAnswer(call.requests)
