"""``POST /v1/chat/completions``: the request."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Raw, json

from aloraserve.wire.documents import Documents, check_documents, document_texts, documents_for_template
from aloraserve.wire.fields import (
    ABSENT,
    MAX_TEXT_BYTES,
    OnlyFalse,
    OnlyText,
    Unsupported,
    refusal,
    small_value,
    text_bytes,
)
from aloraserve.wire.intrinsic_items import GuardItem, GuardItems, IntrinsicItem, IntrinsicItems, items_of
from aloraserve.wire.messages import ChatMessage
from aloraserve.wire.sampling import MAX_LOGPROBS, NEUTRAL, SamplingDefaults, SamplingSettings
from aloraserve.wire.sampling_fields import SamplingFields, TokenCount
from aloraserve.wire.structured import StructuredOutput
from aloraserve.wire.tool_forms import forced_form
from aloraserve.wire.tools import MAX_TOOLS, NamedToolChoice, Tool, ToolChoice

MAX_MESSAGES = 2048
MAX_PARTS_IN_ALL = 8192
MAX_TEMPLATE_KWARGS = 16
MAX_TEMPLATE_KWARG_BYTES = 16 * 1024
MAX_INVOKABLE = 64
ADAPTER_KWARG = "adapter_name"
_TEMPLATE_KWARGS = json.Decoder(dict[str, Any] | None)

TemplateKwargs = Annotated[Raw, Meta(description="an object of up to 16 values by name, 16 KiB each")]
Invokable = Annotated[list[Annotated[str, Meta(min_length=1, max_length=256)]], Meta(max_length=MAX_INVOKABLE)]
"""Names of the adapters that the base model may invoke."""
ReasoningEffort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


class ChatRequest(SamplingFields, frozen=True, kw_only=True):
    """A chat completion request.

    ``chat_template_kwargs.adapter_name`` names an adapter, as an alternative to ``model``; other template
    arguments go to the template as they are, and so do ``documents``.
    """

    messages: Annotated[list[ChatMessage], Meta(min_length=1, max_length=MAX_MESSAGES)]
    max_completion_tokens: TokenCount | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=MAX_LOGPROBS)] | None = None
    chat_template_kwargs: TemplateKwargs = ABSENT
    documents: Documents | None = None
    tools: Annotated[list[Tool], Meta(max_length=MAX_TOOLS)] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    adapters: Literal["auto"] | Invokable | None = None
    intrinsics: IntrinsicItems | None = None
    guard: GuardItems | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    reasoning_effort: ReasoningEffort | None = None
    include_reasoning: bool | None = None
    add_special_tokens: OnlyFalse = None
    audio: Unsupported = None
    chat_template: Unsupported = None
    echo: OnlyFalse = None
    function_call: Unsupported = None
    functions: Unsupported = None
    media_io_kwargs: Unsupported = None
    mm_processor_kwargs: Unsupported = None
    modalities: OnlyText = None
    moderation: Unsupported = None
    return_prompt_text: OnlyFalse = None
    verbosity: Unsupported = None
    web_search_options: Unsupported = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_template_kwargs(self._template_kwargs())
        limits = {self.max_tokens, self.max_completion_tokens} - {None}
        if len(limits) > 1:
            raise refusal("", "'max_tokens' and 'max_completion_tokens' differ; send one of them")
        if self.top_logprobs and not self.logprobs:
            raise refusal("", "'top_logprobs' is accepted only with 'logprobs': true")
        if self.continue_final_message and self.add_generation_prompt:
            raise refusal("", "'continue_final_message' and 'add_generation_prompt' cannot both be true")
        if not self.tools and self.is_forced_to_call:
            raise refusal("tool_choice", "needs 'tools' to choose from")
        if self.intrinsics and (self.n or 1) > 1:
            raise refusal("", "'intrinsics' look at one answer; send 'n' 1")
        self._check_size()

    def _check_size(self) -> None:
        parts = [message.content for message in self.messages if isinstance(message.content, list)]
        count = sum(map(len, parts))
        if count > MAX_PARTS_IN_ALL:
            raise refusal("messages", f"has {count} text parts; at most {MAX_PARTS_IN_ALL} are accepted")
        check_documents(self.documents or ())
        if sum(map(text_bytes, self._texts())) > MAX_TEXT_BYTES:
            raise refusal("", f"'messages', 'tools' and 'documents' carry more than {MAX_TEXT_BYTES} bytes of text")

    def _texts(self) -> list[str]:
        texts = [message.text for message in self.messages]
        for message in self.messages:
            texts += message.more_texts
        return texts + document_texts(self.documents or ()) + [json.encode(tool).decode() for tool in self.tools or ()]

    @property
    def characters(self) -> int:
        """How long the texts of messages, tools and documents are, about."""
        return sum(map(len, self._texts()))

    @property
    def has_generation_prompt(self) -> bool:
        """Whether the template ends the prompt with what an answer begins with."""
        return self.add_generation_prompt is not False and not self.continue_final_message

    @property
    def named_function(self) -> str | None:
        """The function that the answer has to call."""
        chosen = self.tool_choice.function if isinstance(self.tool_choice, NamedToolChoice) else None
        return None if chosen is None else chosen.name

    @property
    def is_forced_to_call(self) -> bool:
        """Whether the answer has to be calls, or the arguments of one."""
        return self.tool_choice == "required" or self.named_function is not None

    @property
    def may_call_tools(self) -> bool:
        """Whether calls are read out of the answer."""
        return bool(self.tools) and self.tool_choice != "none"

    def structured(self) -> StructuredOutput | None:
        """Return the form that the answer must have, None where any text will do.

        Raises:
            FieldError: the request asks for two.
        """
        own = super().structured()
        forced = forced_form(self.tools or (), self.tool_choice, is_parallel=self.parallel_tool_calls is not False)
        if forced is not None and own is not None:
            raise refusal(
                "", f"'tool_choice' and '{super().structured_field}' both give the answer a form; send one of them"
            )
        return forced or own

    @property
    def structured_field(self) -> str:
        """The field that gives the answer its form."""
        return "tools" if self.is_forced_to_call else super().structured_field

    @property
    def adapter_name(self) -> str | None:
        """The adapter that ``chat_template_kwargs`` names, if any."""
        name = self._template_kwargs().get(ADAPTER_KWARG)
        return name if isinstance(name, str) else None

    @property
    def intrinsic_items(self) -> list[IntrinsicItem]:
        """The intrinsics that look at the answer."""
        return items_of(self.intrinsics, IntrinsicItem)

    @property
    def guard_items(self) -> list[GuardItem]:
        """The intrinsics that may refuse to have the messages answered."""
        return items_of(self.guard, GuardItem)

    def client_template_kwargs(self) -> dict[str, object]:
        """Return the client's own arguments for the chat template, without the adapter's name."""
        return {k: v for k, v in self._template_kwargs().items() if k != ADAPTER_KWARG}

    def template_kwargs(self) -> dict[str, object]:
        """Return the arguments for the chat template: the client's, and those that are fields of their own.

        As in vLLM 0.32 (``ChatCompletionRequest.build_chat_params``) an effort of reasoning turns thinking on or off
        in templates that ask for ``enable_thinking``.
        """
        given = self.client_template_kwargs()
        if self.reasoning_effort is not None:
            given = {"enable_thinking": self.reasoning_effort != "none"} | given
            given["reasoning_effort"] = self.reasoning_effort
        if self.documents:
            given["documents"] = documents_for_template(self.documents)
        if self.tools:
            given["tools"] = [tool.for_template() for tool in self.tools]
        return given

    def _template_kwargs(self) -> dict[str, Any]:
        return small_value("chat_template_kwargs", self.chat_template_kwargs, _TEMPLATE_KWARGS) or {}

    def sampling(self, defaults: SamplingDefaults = NEUTRAL) -> SamplingSettings:
        """Return how to generate the answer.

        Args:
            defaults: of fields that are left out.
        """
        alternatives = (self.top_logprobs or 0) if self.logprobs else None
        limit = self.max_completion_tokens or self.max_tokens or defaults.max_tokens
        return self.settings(max_tokens=limit, logprobs=alternatives, defaults=defaults)


def _check_template_kwargs(given: dict[str, Any]) -> None:
    if len(given) > MAX_TEMPLATE_KWARGS:
        raise refusal("chat_template_kwargs", f"has {len(given)} entries; at most {MAX_TEMPLATE_KWARGS} are accepted")
    for name, entry in given.items():
        _check_template_kwarg(name, entry)


def _check_template_kwarg(name: str, value: object) -> None:
    """Raise a validation error unless ``name`` and ``value`` may go to a chat template."""
    if not name.isidentifier() or len(name) > 64:
        raise refusal("chat_template_kwargs", "has a name that is not an identifier of at most 64 characters")
    if name in ("documents", "tools"):
        raise refusal("chat_template_kwargs", f"cannot set '{name}'; send the field '{name}'")
    if name == ADAPTER_KWARG and not (value is None or (isinstance(value, str) and value)):
        raise refusal("chat_template_kwargs", f"has an '{ADAPTER_KWARG}' that is not an adapter's name; send a string")
    if len(json.encode(value)) > MAX_TEMPLATE_KWARG_BYTES:
        raise refusal("chat_template_kwargs", f"has a '{name}' above {MAX_TEMPLATE_KWARG_BYTES} bytes")
    if not _is_bounded(value):
        raise refusal("chat_template_kwargs", f"has a '{name}' with a number that is not finite and below 2**63")


def _is_bounded(value: object) -> bool:
    """Whether every number in a value is one that templates can compute with."""
    if isinstance(value, dict | list):
        return all(map(_is_bounded, value.values() if isinstance(value, dict) else value))
    return not isinstance(value, int | float) or abs(value) < 2.0**63
