"""``POST /tokenize`` and ``POST /detokenize``, in the shapes of vLLM 0.32 (``vllm/entrypoints/serve/tokenize``)."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, field

from aloraserve.wire.chat import MAX_MESSAGES, ChatRequest
from aloraserve.wire.completions import MAX_PROMPT_TOKENS, AnyPrompt, CompletionRequest
from aloraserve.wire.fields import MAX_TEXT_BYTES, CallFields, refusal, text_bytes
from aloraserve.wire.messages import ChatMessage
from aloraserve.wire.responses import ResponsePart
from aloraserve.wire.sampling_fields import TokenId

ModelName = Annotated[str, Meta(min_length=1, max_length=256)]


class TokenizeRequest(ChatRequest, frozen=True, kw_only=True):
    """A conversation as a chat has it, with all fields of one that change its prompt, or a prompt as a completion's."""

    model: ModelName | None = None  # type: ignore[assignment]  # the base model, where a call has to name one
    messages: Annotated[list[ChatMessage], Meta(max_length=MAX_MESSAGES)] = field(default_factory=list)
    prompt: str | None = None
    add_special_tokens: bool | None = None
    return_token_strs: bool | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.prompt is None) == (not self.messages):
            raise refusal("", "one of 'messages' and 'prompt' is needed, and not both")
        if self.prompt is not None and not 0 < text_bytes(self.prompt) <= MAX_TEXT_BYTES:
            raise refusal("prompt", f"is empty, or has more than {MAX_TEXT_BYTES} bytes of text")
        if self.messages and self.add_special_tokens:
            raise refusal("add_special_tokens", "is accepted with 'prompt' only: the chat template adds what it needs")

    def chat(self, base_model: str) -> ChatRequest:
        """Return the chat that has this prompt."""
        fields = {name: getattr(self, name) for name in ChatRequest.__struct_fields__}
        return ChatRequest(**fields | {"model": self.model or base_model, "add_special_tokens": None})

    def completion(self, base_model: str, prompt: AnyPrompt) -> CompletionRequest:
        """Return the completion that has this prompt.

        Args:
            base_model: stands for a model that is not named.
            prompt: the text, or its tokens where it has no special ones before it.
        """
        return CompletionRequest(model=self.model or base_model, prompt=prompt)


class DetokenizeRequest(CallFields, frozen=True, kw_only=True):
    """Tokens whose text is asked for."""

    tokens: Annotated[list[TokenId], Meta(max_length=MAX_PROMPT_TOKENS)]
    model: ModelName | None = None

    def names(self, base_model: str) -> CompletionRequest:
        """Return a request of the same model, by which is found whether it is served."""
        return CompletionRequest(model=self.model or base_model, prompt=[0])


class TokenizedPrompt(ResponsePart):
    """Tokens of a prompt; ``token_strs`` only if they were asked for."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None = None


class DetokenizedPrompt(ResponsePart):
    """Text of tokens."""

    prompt: str
