"""Every message that can reach a client, with an example of each: a new one has to be added here to be read."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import aloraserve
import aloraserve_services
from aloraserve import errors
from aloraserve.routing.placement import FallbackCause
from aloraserve.serving.attempt import LostError
from aloraserve.wire import reply_for

INVALID = [
    "name is 'A/b'; 1 to 64 of a-z, 0-9, '.', '_' and '-', the first a letter or digit are accepted",
    "the prefix has 3 tokens; 32, one block, to 32768 are accepted",
    "owner is 'nobody'; there is no such tenant",
    "tenant is 'A/b'; 1 to 64 of a-z, 0-9, '.', '_' and '-', the first a letter or digit are accepted",
    "roles is empty; accepted are invoke, adapters, admin",
    "roles is invoke without a tenant; only admin is accepted there",
    "expires_in_s is 0; 1 to 316224000 are accepted",
    "the limits are not accepted: Expected `int` >= 1 - at `$.concurrency`",
    "the body has more than 65536 names and texts",
    # bodies
    "the body has 300000 bytes; at most 262144 are accepted",
    "the body is not UTF-8 at byte 0",
    "the body is not a JSON object",
    "the body is nested too deeply",
    "the body has the key 'model' twice in one object",
    "the body has NaN, which is not JSON; finite numbers are accepted",
    "the body has a number with too many digits",
    "the body is not valid JSON: Input data was truncated",
    "the body is not valid JSON: Expecting value at line 1 column 11 (character 10)",
    "the body has a key with a lone surrogate; valid Unicode text is accepted",
    # messages of gRPC
    "'chat_template_kwargs_json' is not JSON",
    "'extra_json' is not a JSON object",
    "'extra_json' has 'model', which is set already",
    "the message is not a valid aloraserve.v1.ChatRequest: its bytes are malformed, or a text is not UTF-8",
    "'stream' is not accepted here: the method says whether to stream",
    "the call has no message",
    # hosts
    "the header 'Host' is 'evil.example:8000'; a platform without keys is called as localhost or by a loopback address",
    "the 'Idempotency-Key' is 'a b'; 1 to 255 printable ASCII characters without spaces are accepted",
    "a streamed answer cannot be given again: leave the 'Idempotency-Key' out, or do not stream",
    "the header 'x-request-timeout-s' is '5m'; seconds above 0 and up to 86400 are accepted",
    # prompts
    "model is 'safety' and chat_template_kwargs.adapter_name is 'plain'; send one of them, or the base model 'base' "
    "with an adapter_name",
    "chat_template_kwargs cannot set 'chat_template'",
    "the chat template refuses the messages: system comes first",
    "the model's chat template does not show documents; send their text in messages",
    "the model's chat template does not show messages of the role 'tool'",
    "the model's chat template does not show tools; it was not trained to call any",
    "it is not known how the model writes calls of functions; send as 'tool_choice' a function, 'required' or 'none', "
    "or have the operator set 'tool_parser'",
    "'continue_final_message' is not accepted for an adapter with an invocation, which ends the prompt",
    "documents has a 'text' that is not a string",
    "the json of 'structured_outputs' cannot be compiled: Invalid type: strin",
    "prompt has token id 128; the vocabulary has 128",
    "the prompt has no tokens; at least 1 is needed",
    "the prompt has 9000 tokens; the model's context holds 8192, answer included",
    "max_tokens is 65; the model's context holds 64 tokens",
    "min_tokens is 9; at most max_tokens, here 8, is accepted",
    "300000 log-probabilities of the prompt are asked for; at most 262144 are accepted",
    "truncate_prompt_tokens is 65; the model's context holds 64",
    "truncate_prompt_tokens would cut off what invokes the adapter; a larger number is accepted, or truncation_side "
    "'left'",
    "the messages hold the text of a special token of the model, which its tokenizer takes for the token "
    "itself; leave out <|im_end|>, <|im_start|> and the like",
    "a value of the instruction repeats the part of it that invokes; leave it out",
    "a value of the instruction holds the adapter's invocation, '<s>', which has the same tokens however it is "
    "written; leave it out",
    "the adapter's instruction has the field 'criteria', which has no value; end the messages with the whole "
    "instruction",
    "'adapters' is accepted only with the base model as 'model'",
    "'adapters' needs a gateway; an engine by itself makes one call",
    "adapters has 'plain', which is a plain LoRA; those with an invocation are accepted",
    # queries
    "days is '0'; 1 to 366 are accepted",
    "limit is '0'; 1 to 1000 are accepted",
    "window is '2d'; 1m to 24h are accepted, such as 90s, 15m or 1h",
    "force is 'yes'; true or false is accepted",
    "label is 'team'; name=value is accepted",
    "'page' is not a known parameter; accepted are prefix, state",
    "'limit' is in the query twice; once is accepted",
    "kind is 'dora'; accepted are lora, alora",
    # adapters
    "alias 'Prod' is not accepted: 1 to 32 lower-case letters, digits, '.', '_' and '-' are, the first a letter or "
    "digit, that are not 12 or more digits of a version",
    "adapter 'a/b' is not a reference; accepted is a name, name@alias or name@version with at least 12 digits of the "
    "version",
    "the catalog's file has 300000000 bytes; 268435456 are accepted",
    "the catalog's file has a name twice; each is accepted once",
    "the catalog's file has 30000 names; 20000 are accepted",
    "it is not a catalog's file: Object contains unknown field `x` - at `$`",
    "adapter 'safety': it has a version twice",
    "the shares of safety@prod do not add up to 1",
    "after is 'x'; the 'next' of a page is accepted",
    "'safety@0123456789ab' is a version, not an alias",
    "name is 'other.safety', which tenant 'other' alone may have",
    "name is 'safety'; accepted is acme.NAME, with a NAME without dots",
    "an alias of 'safety' points to its versions; 'other@prod' is another adapter",
    "share is 1; 0 and more, and less than 1, is accepted",
    "name 'base' is the base model's; choose another one",
    "the adapter cannot be registered: it has 17 labels; 16 are accepted",
    "the registration was cancelled",
    # intrinsics
    "'plain' is not an intrinsic: an adapter that is one has an io.yaml, or an 'intrinsic' in its aloraserve.json",
    "intrinsic 'cite' gives no probability, so that it cannot guard",
    "the intrinsic 'requirement' needs the field 'criteria'; its fields are criteria",
    "the intrinsic 'safety' has no field 'x'; it has none",
    "a text has the tag <c0> or its like, which numbers sentences for this intrinsic",
    "a text has more than 4096 sentences, the most that an intrinsic numbers",
    # engines
    "the invocation is empty; an aLoRA adapter has at least one invocation token",
]
FIELDS = [
    # what stands after a field's name
    "is too long; at most 8388608 bytes of text are accepted",
    "contains a lone surrogate; valid Unicode text is accepted",
    "has 140000 bytes; at most 131072 are accepted",
    "has 9000 text parts; at most 8192 are accepted",
    "must be a string, a list of token ids, or a list of these, and none is empty",
    "has 2000000 token ids; at most 1000000 are accepted",
    "has an entry that is not a token id, an integer from 0 to 2147483647",
    "has 65 prompts; at most 64 with 128 choices are accepted",
    "is not supported by this server",
    "is not supported by this server; only 1 is accepted",
    "(0) should be an integer of at least 1; 0 is accepted with 'echo': true",
    "has the key 'x'; token ids from 0 to 2147483647 are accepted",
    "'prompt_logprobs' is accepted only without 'stream'",
    "the body has more than 64 fields that are not known",
    "has 17 entries; at most 16 are accepted",
    "has a name that is not an identifier of at most 64 characters",
    "has an 'adapter_name' that is not an adapter's name; send a string",
    "has an 'adapter_name'; adapters are named in 'intrinsics' here",
    "has a 'style' above 16384 bytes",
    "has a 'style' with a number that is not finite and below 2**63",
    "cannot set 'documents'; send the field 'documents'",
    "has an entry without fields, or with more than 16",
    "should be an integer of at most 20: how many alternatives to list",
    # forms of answers
    "has more than one of json, regex, choice, grammar and json_object; send one",
    "has an option that is not supported by this server; only false is accepted",
    "is not accepted: it repeats something more than 100000 times",
    "has a JSON schema in it; send it as 'json'",
    "is a schema above 65536 bytes",
    "is not a JSON schema: an object is needed",
    "is a JSON schema that is not accepted: it is nested deeper than 64 levels",
    "is required for this type",
    "is required",
    "has a 'criteria' above 65536 bytes",
    # whole sentences
    "'intrinsics' look at one answer; send 'n' 1",
    "'max_tokens' and 'max_completion_tokens' differ; send one of them",
    "'top_logprobs' is accepted only with 'logprobs': true",
    "'messages', 'tools' and 'documents' carry more than 8388608 bytes of text",
    "'continue_final_message' and 'add_generation_prompt' cannot both be true",
    "is accepted only in messages of the role 'assistant'",
    "is nested deeper than 64 levels",
    "needs 'tools' to choose from",
    "one of 'messages' and 'prompt' is needed, and not both",
    "is empty, or has more than 8388608 bytes of text",
    "is accepted with 'prompt' only: the chat template adds what it needs",
    "is a chat's; send 'max_output_tokens'",
    "is not supported here; only 1 is accepted",
    "'top_logprobs' is accepted only with 'message.output_text.logprobs' in 'include'",
    "'tool_choice' and 'response_format' both give the answer a form; send one of them",
    "has parameters that are a JSON schema that is not accepted: a length is above 100000",
    "has parameters of more than 65536 bytes, and 'tool_choice' needs them",
    "names the function 'weather', which is not among the 'tools'",
    "has two different definitions 'City'; give them different names",
    "'structured_outputs' and 'response_format' differ; send one of them",
    "'stream_options' is accepted only with 'stream': true",
    "'messages' or 'text' is needed, and not both",
]
EXAMPLES = {
    "InvalidRequestError": INVALID,
    "BodyTooLargeError": [
        "the body has more than 262144 bytes, the most that is accepted for a context of 2048 tokens",
        "the body has more than 268435456 bytes, the most that is accepted",
    ],
    "BodyTimeoutError": [
        "the body did not arrive in time: 1 bytes came; 10 s and another second for each 16384 bytes are waited for",
        "the message did not arrive within 10 s",
    ],
    "MediaTypeError": [
        "the header 'Content-Type' is missing; 'application/json' is needed",
        "the charset of 'Content-Type' is 'utf-16'; JSON is read as UTF-8",
        "the header 'Content-Encoding' is 'gzip'; a body is read as it is, not compressed",
    ],
    "refusal": FIELDS,
    "EngineRefusal": [
        "bad_words needs an engine with a model; this one is simulated",
        "prompt and answer need 5000 tokens of KV cache; the engine has 4096",
        "the prompt does not contain the invocation of 'safety'",
        "this engine has no tokenizer; answers in a form need one",
        "the form of the answer cannot be compiled: Invalid type: strin",
    ],
    "UnknownModelError": [
        "model 'nobody' is not served; served are base, plain, safety",
        "model 'safety' cannot be served now: its files are not in the adapter store of this machine",
    ],
    "RetiredAdapterError": ["model 'safety@prod' is retired and takes no calls: it is biased"],
    "UnknownAdapterError": [
        "adapter 'safety@prod' is not in the catalog",
        "adapter 'safety' has no alias 'prod'",
        "adapter 'safety@0123456789ab' is validated and takes no calls yet",
        "there is no registration 'ab' in this gateway; the last 64 are kept",
    ],
    "TenantConflictError": [
        "there are 64 shared prefixes, the most that are accepted; delete some first",
        "there are 64 valid keys, the most that are accepted; revoke one first",
        "the tenant 'acme' was deleted, and its name is not given out again; choose another",
        "the record needs 65537 bytes; 65536 are accepted",
        "there are 1024 tenants, the most that are accepted; delete some first",
        "the key 0123456789ab was made with another pepper than this machine has; give all machines the same "
        "key_pepper_file, or revoke the keys of the lost one",
    ],
    "TenantChangedError": [
        "tenant 'acme' was changed by another call meanwhile; look at it and try again",
        "the shared prefix 'system' was changed by another call meanwhile; try again",
    ],
    "UnknownPrefixError": ["there is no shared prefix 'system'"],
    "UnknownTenantError": ["there is no tenant 'acme'"],
    "UnknownKeyError": [
        "there is no key with the id '0123456789ab'",
        "the key 0123456789ab is expired; make another one instead",
    ],
    "AdapterConflictError": [
        "adapter 'safety' needs 600000 bytes in the catalog; 524288 are accepted: delete versions of it, or give it "
        "fewer labels",
        "the catalog has 20000 adapters, the most that are accepted; delete some first",
        "adapter 'safety@prod' means several versions: safety@0123456789ab, safety@ba9876543210; name one of them",
        "adapter 'safety@0123456789ab' is in the catalog already, retired; delete it to register it again",
        "the name 'safety' is taken; choose another one",
        "adapter 'safety' has 64 versions, the most; delete one first",
        "the tenant has 64 versions of adapters, the most that are accepted, with those that are being registered; "
        "delete one first",
        "safety@prod cannot point to safety@0123456789ab, which is retired; a version that is available or loaded is "
        "accepted",
        "adapter 'safety' has 32 aliases, the most; remove one first",
        "safety@prod has never pointed elsewhere; nothing to roll back to",
        "the alias 'current' cannot be removed; retire or delete the adapter instead",
        "whether calls of safety@0123456789ab run cannot be known (no answer); force deletes it even so",
        "calls of safety@0123456789ab run on engine-0; retire it and wait for their end, or force",
        "the alias safety@prod cannot point to itself; name a version",
        "safety@prod is the main version of safety@current already",
        "safety@0123456789ab is in use: safety@prod points to it; retire it first, or force",
        "adapter 'safety' was registered or pointed elsewhere by another call meanwhile; look at it and try again",
        "the registration of 'safety' was cancelled",
        "the number of safety@0123456789ab in engines is taken; choose another name",
        "the catalog has safety already; delete them, or skip what exists",
        "nothing was imported: safety@0123456789ab has no weights in the store",
    ],
    "AdapterChangedError": [
        "adapter 'safety' was changed by another call meanwhile; look at it and try again",
    ],
    "AdapterRefusedError": ["adapter 'safety' is refused: its rank is 4096"],
    "AuthenticationError": [
        "an API key is needed: send the header 'Authorization: Bearer <key>'",
        "the API key is not known",
    ],
    "NotPermittedError": [
        "visibility is public: that needs a key with the role admin",
        "owner is another tenant: that needs a key with the role admin",
        "this needs a key with the role admin; this key's roles: invoke",
    ],
    "InvocationError": [
        "adapter 'safety' cannot act: its invocation '<safety>' belongs in the prompt's generation prompt, but its "
        "tokens [1, 2] are not there; they are of another tokenizer or chat template than the base model has",
    ],
    "UnknownReceiptError": ["there is no receipt of request 'r1'; the last 1024 that each gateway routed are kept"],
    "LimitTooLowError": [
        "the request needs 1201 tokens at least, and its tenant may use 1000 tokens per minute; "
        "a shorter prompt is needed"
    ],
    "RateLimitedError": [
        "rate limit of the tenant: its limit of 60 requests per minute is reached; retry in 1 s",
    ],
    "OverloadedError": [
        "too many requests are queued; retry later",
        "too many requests are in progress; retry later",
        "17 prompts to be tokenized of the tenant are in progress; retry later",
        "too many long bodies are being read; retry later",
        "another file is being read; retry later",
        "too many clients are watching; retry later",
        "no replica took the call within 600 s; retry later",
        "4 adapters are being fetched, the most at once; retry later",
        "too many adapters are being fetched for others; retry later",
    ],
    "DrainingError": [
        "this gateway is about to stop; retry at once",
        "the gateway has stopped; the answer is incomplete",
    ],
    "DeadlineError": [
        "the intrinsic was not answered within 120 s",
        "the answer was not complete within 2 s of the request",
    ],
    "IdempotencyConflictError": ["a request with this 'Idempotency-Key' is being answered; retry later"],
    "IdempotencyKeyReusedError": ["this 'Idempotency-Key' stands for another request; use a new one"],
    "EngineEndingRequestError": [
        "2 engines ended while they answered this request; it is refused for 600 s",
    ],
    "UnusableAnswerError": [
        "the answer is none of 'Y', 'N'",
        "the answer is not JSON",
        "the answer was cut off; the intrinsic's parameters give it too few tokens",
        "the answer does not fit the intrinsic's transformations (KeyError)",
        "the transformed answer has more than 1048576 bytes",
    ],
    "ReplicaLostError": [
        "3 replicas were lost before the first token; retry later",
        "model 'safety' cannot be served now: a replica does not have the version of adapter 'safety' that is served; "
        "retry later",
        "the replica ended the call without an answer",
    ],
}
STATUS = {
    errors.InvalidRequestError: 400,
    errors.BodyTimeoutError: 408,
    errors.BodyTooLargeError: 413,
    errors.MediaTypeError: 415,
    errors.UnknownModelError: 404,
    errors.RetiredAdapterError: 404,
    errors.UnknownAdapterError: 404,
    errors.ConflictError: 409,
    errors.TenantConflictError: 409,
    errors.TenantChangedError: 409,
    errors.UnknownTenantError: 404,
    errors.UnknownPrefixError: 404,
    errors.UnknownKeyError: 404,
    errors.AdapterConflictError: 409,
    errors.AdapterChangedError: 409,
    errors.AdapterRefusedError: 400,
    errors.AuthenticationError: 401,
    errors.NotPermittedError: 403,
    errors.UnknownReceiptError: 404,
    errors.UnknownServiceError: 404,
    errors.InvocationError: 422,
    errors.LimitTooLowError: 400,
    errors.RateLimitedError: 429,
    errors.OverloadedError: 429,
    errors.UnusableAnswerError: 502,
    errors.DeadlineError: 504,
    errors.EngineEndingRequestError: 422,
    errors.IdempotencyConflictError: 409,
    errors.IdempotencyKeyReusedError: 422,
    errors.AdapterNotLoadedError: 503,
    errors.AdapterNotStoredError: 507,
    errors.ReplicaLostError: 502,
    errors.DirectoryUnavailableError: 503,
    errors.DrainingError: 503,
    # The operator's; a client learns nothing of them.
    errors.InvalidAdapterError: 500,
    errors.AdapterSourceError: 400,
    errors.SettingsError: 500,
    errors.KeySpaceMismatchError: 500,
    errors.StartError: 500,
    errors.TrainingError: 500,
    errors.PartLostError: 500,
}
BAD_ENGLISH = re.compile(
    r"(?<!there )\b(is|are) no\b|\banew\b|\btells?\b|\btold\b"
    r"|waiting room|does not do|left alone|\ba (request|block|call)\b$"
)
ROOTS = [Path(inspect.getfile(package)).parent for package in (aloraserve, aloraserve_services)]
ALL_EXAMPLES = [example for group in EXAMPLES.values() for example in group]


def sites() -> Iterator[tuple[str, str]]:
    """Yield the class and the template of every message, its placeholders as "{}"."""
    for path in (path for root in ROOTS for path in root.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in EXAMPLES:
                message = node.args[1 if node.func.id == "refusal" else 0]
                # What is handed on from elsewhere is listed there, or is an engine's own.
                if isinstance(message, ast.Constant | ast.JoinedStr):
                    yield node.func.id, template(message)


def template(message: ast.Constant | ast.JoinedStr) -> str:
    if isinstance(message, ast.Constant):
        return str(message.value)
    return "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in message.values)


def fits(found: str, example: str) -> bool:
    pattern = ".+".join(re.escape(part) for part in found.split("{}"))
    return re.fullmatch(pattern, example) is not None


def test_every_message_has_an_example() -> None:
    missing = [(kind, found) for kind, found in sites() if not any(fits(found, example) for example in EXAMPLES[kind])]
    assert missing == []


def test_every_example_is_of_a_message() -> None:
    found = set(sites())
    stale = [
        example
        for kind, examples in EXAMPLES.items()
        for example in examples
        if not any(fits(one, example) for of, one in found if of == kind)
    ]
    assert stale == []


def test_every_error_class_has_a_status() -> None:
    classes = {one for one in vars(errors).values() if inspect.isclass(one) and issubclass(one, errors.AloraserveError)}
    assert set(STATUS) == classes - {errors.AloraserveError}


@pytest.mark.parametrize(("kind", "status"), STATUS.items())
def test_the_status_of_each_class(kind: type[errors.AloraserveError], status: int) -> None:
    reply = reply_for(kind("a message"))
    assert reply.status == status
    assert reply.body["error"]["message"] == ("a message" if status != 500 else "internal error")


def test_a_stream_that_breaks_off_says_so() -> None:
    reply = reply_for(LostError("replica-7", "ActorDiedError"))
    assert (reply.status, reply.body["error"]["code"]) == (502, "replica_lost")
    assert reply.body["error"]["message"] == "the replica was lost while it answered; the answer is incomplete"


@pytest.mark.parametrize(
    ("cause", "message"),
    [
        (FallbackCause.SLOW, "the directory did not answer within 10 ms"),
        (FallbackCause.UNREACHABLE, "the directory cannot be reached"),
        (FallbackCause.BREAKER_OPEN, "directory circuit breaker is open"),
        (FallbackCause.NO_REPLICA, "the directory has no live replica"),
    ],
)
def test_why_the_directory_was_not_used(cause: FallbackCause, message: str) -> None:
    """Not an error, but a client reads it in ``x-aloraserve-reason``."""
    assert cause.message(0.010) == message


@pytest.mark.parametrize("example", ALL_EXAMPLES)
def test_messages_are_plain_english(example: str) -> None:
    assert not BAD_ENGLISH.search(example)
    assert not example.endswith((".", "!"))
    assert example[0].islower() or not example[0].isalpha()
