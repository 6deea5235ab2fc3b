"""Configurations that would be served wrongly are refused when they are loaded, with what to add."""

from __future__ import annotations

from typing import Any

import pytest

import vllm_alora
from vllm_alora.adapter_config import AdapterConfigError, invocation_of

VALID = {"r": 8, "lora_alpha": 16, "target_modules": ["q_proj"]}


@pytest.fixture(scope="module", autouse=True)
def registered() -> None:
    """Load the plugin."""
    vllm_alora.register()


@pytest.mark.parametrize(
    ("config", "invocation"),
    [
        ({}, None),
        ({"alora_invocation_tokens": None, "invocation_string": None, "use_alora": False, "peft_type": "LORA"}, None),
        ({"alora_invocation_tokens": [5, 6]}, (5, 6)),
        ({"alora_invocation_tokens": [5], "invocation_string": "<check>", "peft_type": "ALORA"}, (5,)),
        ({"cross_stream": False, "last_context_token": None}, None),
    ],
)
def test_the_kind_of_an_adapter(config: dict[str, Any], invocation: tuple[int, ...] | None) -> None:
    """``null`` is a plain LoRA."""
    assert invocation_of({**VALID, **config}) == invocation


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"alora_invocation_tokens": []}, r"alora_invocation_tokens is \[\]; accepted are a list"),
    ({"alora_invocation_tokens": "12"}, 'alora_invocation_tokens is "12"'),
    ({"alora_invocation_tokens": [1.9]}, r"alora_invocation_tokens is \[1.9\]"),
    ({"alora_invocation_tokens": [True]}, r"alora_invocation_tokens is \[true\]"),
    ({"alora_invocation_tokens": [-1]}, r"alora_invocation_tokens is \[-1\]"),
    ({"alora_invocation_tokens": {"1": 2}}, r'alora_invocation_tokens is {"1": 2}'),
    ({"alora_invocation_tokens": False}, "alora_invocation_tokens is false"),
    ({"invocation_string": "<check>"}, 'invocation_string is "<check>".*Add alora_invocation_tokens'),
    ({"alora_invocation_string": "<check>"}, "alora_invocation_string is.*Add alora_invocation_tokens"),
    ({"use_alora": True}, "use_alora is true.*Add alora_invocation_tokens"),
    ({"peft_type": "ALORA"}, 'peft_type is "ALORA".*Add alora_invocation_tokens'),
    ({"cross_stream": True}, "cross_stream is true: a Shadow-Residual adapter"),
    ({"last_context_token": 7}, "last_context_token is 7: a Shadow-Residual adapter"),
]


@pytest.mark.parametrize(("config", "said"), REFUSED, ids=[said[:40] for _, said in REFUSED])
def test_what_would_be_served_wrongly_is_refused_by_the_workers_load(config: dict[str, Any], said: str) -> None:
    from vllm.lora.peft_helper import PEFTHelper

    with pytest.raises(AdapterConfigError, match=said):
        PEFTHelper.from_dict({**VALID, **config})


def errors_of(**changes: Any) -> str:
    from vllm.config import LoRAConfig
    from vllm.lora.peft_helper import PEFTHelper

    config = {**VALID, "alora_invocation_tokens": [7], **changes}
    try:
        PEFTHelper.from_dict(config).validate_legal(LoRAConfig(max_lora_rank=8, max_loras=1))
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("targets", "refused"),
    [
        (["q_proj", "lm_head"], "lm_head"),
        (["model.embed_tokens"], "embed_tokens"),
        (["my_lm_head_norm"], ""),
        (r".*(lm_head|q_proj)", "lm_head"),
        (r"^(?!.*lm_head).*proj", ""),
        ("all-linear", ""),
    ],
)
def test_targets_are_matched_as_peft_matches_them(targets: list[str] | str, refused: str) -> None:
    """A list names modules or ends of their paths, a text is a regular expression for whole paths."""
    said = errors_of(target_modules=targets)
    assert f"cannot target '{refused}'" in said if refused else not said


def test_an_alora_without_target_modules_is_an_error_with_words() -> None:
    """PEFT's ``target_parameters`` alone."""
    assert "needs target_modules; they are None" in errors_of(target_modules=None)


def test_an_alora_from_memory_is_refused() -> None:
    """verl and others hand over a configuration without a file: no engine core could read its invocation."""
    from vllm.lora.request import LoRARequest

    from vllm_alora.patches import worker_lora

    said: list[str] = []

    class Manager:
        def add_adapter(self, lora_request: Any) -> bool:
            said.append(errors_of())
            return True

    replaced = worker_lora._wrap_add(Manager.add_adapter)
    replaced(Manager(), LoRARequest("123", 1, "simon_lora_path"))
    assert "must be loaded from files" in said[0]
    assert not errors_of()
