"""Answers of intrinsics from granite's libraries, transformed by granite-common."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

import yaml
from granite_common import ChatCompletion
from granite_common.intrinsics import IntrinsicsResultProcessor
from granite_common.intrinsics.output import DropDuplicates

from aloraserve.adapters.intrinsics.answers import Asked, RawAnswer, TokenChance, parse_json
from aloraserve.errors import UnusableAnswerError

MAX_VALUE_BYTES = 1024 * 1024
LEAST_LOGPROB = -9999.0
_MISUSED = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)
"""What a transformation raises over an answer that it was not made for."""


def transformed(config: str, answer: RawAnswer, asked: Asked) -> Any:
    """Return what an answer's transformations make of it.

    Args:
        config: text of a checked ``io.yaml``.
        answer: of the adapter.
        asked: what its numbers of sentences refer to.

    Raises:
        UnusableAnswerError: it is not JSON, or not what the transformations take.
    """
    processor = _processor(config)
    if not processor.config["logprobs_workaround"]:
        parse_json(answer.text, answer.is_cut_off)
    try:
        found = processor.transform(_response(answer), _request(asked))
        content = found.choices[0].message.content
    except _MISUSED as error:
        # Not the error's own text, which repeats the answer.
        raise UnusableAnswerError(
            f"the answer does not fit the intrinsic's transformations ({type(error).__name__})"
        ) from None
    if len(content) > MAX_VALUE_BYTES:
        raise UnusableAnswerError(f"the transformed answer has more than {MAX_VALUE_BYTES} bytes")
    return parse_json(content, False)


class _DropDuplicates(DropDuplicates):  # type: ignore[misc]
    """granite-common's compares generators (0.4.1, ``output.py``), so that no record is ever equal to another."""

    def _transform(self, value: Any, path: Any, prepare_output: Any) -> list[Any]:
        records = super()._transform(value, path, prepare_output)
        return list({json.dumps([record[name] for name in self.target_fields]): record for record in records}.values())


@lru_cache(maxsize=256)
def _processor(config: str) -> IntrinsicsResultProcessor:
    fields = {name: value for name, value in yaml.safe_load(config).items() if name != "name"}
    processor = IntrinsicsResultProcessor(config_dict=fields)
    processor.rules = [
        _DropDuplicates(rule.config, rule.input_path_expr, rule.target_fields)
        if isinstance(rule, DropDuplicates)
        else rule
        for rule in processor.rules
    ]
    return processor


def _response(answer: RawAnswer) -> dict[str, Any]:
    tokens = [
        {**_token(position.chosen), "top_logprobs": [_token(other) for other in position.alternatives]}
        for position in answer.logprobs
    ]
    logprobs = {"content": tokens} if tokens else None
    message = {"role": "assistant", "content": answer.text}
    return {"choices": [{"index": 0, "message": message, "logprobs": logprobs}]}


def _token(token: TokenChance) -> dict[str, Any]:
    return {"token": token.token, "logprob": max(LEAST_LOGPROB, token.logprob)}


def _request(asked: Asked) -> ChatCompletion:
    """Return the request that an answer refers to; of roles only those of documents matter there."""
    messages = [
        {"role": role if role.startswith("document ") else "user", "content": text} for role, text in asked.messages
    ]
    documents = [{"doc_id": doc_id, "text": text} for doc_id, text in asked.documents]
    return ChatCompletion.model_validate({"messages": messages, "extra_body": {"documents": documents}})
