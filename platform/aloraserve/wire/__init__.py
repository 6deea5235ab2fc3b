"""Request and response models of the OpenAI-compatible API, and the one map from errors to responses."""

from aloraserve.wire.body import parse_body
from aloraserve.wire.chat import ChatRequest
from aloraserve.wire.chat_answers import ChatCompletion, ChatCompletionChunk
from aloraserve.wire.completions import Completion, CompletionRequest
from aloraserve.wire.errors import ErrorReply, reply_for
from aloraserve.wire.models import ModelEntry, ModelList
from aloraserve.wire.responses import Usage
from aloraserve.wire.sampling import SamplingSettings
from aloraserve.wire.structured import StructuredOutput

__all__ = [
    "ChatCompletion",
    "ChatCompletionChunk",
    "ChatRequest",
    "Completion",
    "CompletionRequest",
    "ErrorReply",
    "ModelEntry",
    "ModelList",
    "SamplingSettings",
    "StructuredOutput",
    "Usage",
    "parse_body",
    "reply_for",
]
