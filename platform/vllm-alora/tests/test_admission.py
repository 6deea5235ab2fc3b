"""Every way into the engine core: requests that no front end of the plugin has seen."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
from cores import Core, config_of, write_files

import vllm_alora
from vllm_alora.activation import ACTIVATION_KEY, NEVER, activation_of
from vllm_alora.patches import admission

INVOCATION = [7, 8]
PROMPT = [*range(100, 110), *INVOCATION, 20]


@pytest.fixture(scope="module", autouse=True)
def registered() -> None:
    """Load the plugin."""
    vllm_alora.register()


@pytest.fixture
def core(tmp_path: Path) -> Core:
    """An engine core that nobody has used."""
    return Core(config_of(tmp_path))


def lora_of(path: Path | str, name: str = "certainty", **changes: Any) -> Any:
    from vllm.lora.request import LoRARequest

    return LoRARequest(name, 1, str(path), **changes)


@pytest.fixture
def alora(tmp_path: Path) -> Any:
    """An aLoRA adapter on disk."""
    return lora_of(write_files(tmp_path / "certainty", "v1", alora_invocation_tokens=INVOCATION))


@pytest.mark.parametrize("sent", [None, 3, "x", 1.5, True, -1, NEVER])
def test_an_alora_request_has_its_activation_point_whatever_came_with_it(core: Core, alora: Any, sent: Any) -> None:
    """Rust front ends pass a client's ``vllm_xargs`` on; ready ``EngineCoreRequest`` objects have no point at all."""
    request = core.add("r", list(PROMPT), alora, extra_args=None if sent is None else {ACTIVATION_KEY: sent, "a": 1})
    assert activation_of(request.sampling_params) == 10
    assert request.block_hashes[:2] == core.add("base", list(PROMPT), None).block_hashes[:2]
    core.step()
    assert core.weights_at("r", 9) is None
    assert core.weights_at("r", 10) == "v1"


def test_a_prompt_without_the_invocation_is_refused_in_the_core_too(
    core: Core, alora: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vllm.exceptions import VLLMValidationError

    with pytest.raises(VLLMValidationError, match="does not contain the invocation of the aLoRA adapter 'certainty'"):
        core.add("r", [1, 2, 3], alora)
    decided = core.add("decided by its front end", [1, 2, 3], alora, extra_args={ACTIVATION_KEY: NEVER})
    assert activation_of(decided.sampling_params) == NEVER
    monkeypatch.setenv("VLLM_ALORA_ABSENT", "base")
    assert activation_of(core.add("r", [1, 2, 3], alora).sampling_params) == NEVER


@pytest.mark.parametrize("kind", ["base", "lora"])
def test_the_reserved_key_of_another_request_is_taken_off(core: Core, tmp_path: Path, kind: str) -> None:
    lora = None if kind == "base" else lora_of(write_files(tmp_path / "plain", "v1"))
    request = core.add("r", list(PROMPT), lora, extra_args={ACTIVATION_KEY: 5, "other": 1})
    assert request.sampling_params.extra_args == {"other": 1}


def test_a_malformed_reserved_key_is_no_activation_point_in_a_worker() -> None:
    """A worker that raised would end the engine."""
    from vllm import SamplingParams

    for value in ("x", 1.5, True, -1, None, [3]):
        assert activation_of(SamplingParams(extra_args={ACTIVATION_KEY: value})) is None


@pytest.mark.parametrize(
    ("changes", "said"), [({"resumable": True}, "resumable"), ({"prompt_embeds": object()}, "prompt embeddings")]
)
def test_what_has_no_activation_point_is_refused_in_the_core(
    core: Core, alora: Any, changes: dict[str, Any], said: str
) -> None:
    from vllm.exceptions import VLLMValidationError

    with pytest.raises(VLLMValidationError, match=said):
        core.arrive("r", list(PROMPT), alora, **changes)


def test_a_set_up_that_cannot_be_exact_is_refused_in_the_core(tmp_path: Path, alora: Any) -> None:
    """Already on loading, and by every request."""
    from vllm.exceptions import VLLMValidationError

    core = Core(config_of(tmp_path, specialize_active_lora=True))
    with pytest.raises(VLLMValidationError, match="specialize_active_lora"):
        core.add_lora(alora)
    assert not core.worker.list_loras()
    with pytest.raises(VLLMValidationError, match="specialize_active_lora"):
        core.add("r", list(PROMPT), alora)


def test_an_adapter_from_memory_runs_as_in_stock_vllm(core: Core) -> None:
    """verl hands weights over to the workers and names a path that is nowhere."""
    lora = lora_of("simon_lora_path", "123")
    core.worker.in_memory["simon_lora_path"] = "tensors"
    core.worker.manager.add_adapter(lora)
    request = core.add("r", list(PROMPT), lora)
    assert activation_of(request.sampling_params) is None
    while core.scheduler.requests:
        core.step()
    assert core.weights_at("r", 0) == "tensors"


def test_files_that_only_the_workers_have_are_read_there(
    core: Core, alora: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The core's view is blind; the first request's keys are made again once the answer is there."""
    monkeypatch.setattr("vllm_alora.adapters.read_invocation", lambda lora: None)
    core.reloads._digest = lambda lora: None
    request = core.add("r", list(PROMPT), alora)
    assert activation_of(request.sampling_params) == 10
    assert request.block_hashes[:2] == core.add("base", list(PROMPT), None).block_hashes[:2]
    assert core.reloads.of(alora) != ""


def test_an_adapter_that_nobody_has_ends_its_request_alone(core: Core, tmp_path: Path) -> None:
    """Its load inside a step would end the engine."""
    from vllm.exceptions import VLLMValidationError

    gone = lora_of(tmp_path / "gone", "gone")
    with pytest.raises(VLLMValidationError, match=r"adapter_config\.json of 'gone' cannot be read"):
        core.add("r", list(PROMPT), gone)
    core.core._send_error_outputs_to_client = MagicMock()
    core.add("r", list(PROMPT), gone, client_index=3)
    core.core._send_error_outputs_to_client.assert_called_once_with(["r"], 3)
    assert not core.scheduler.requests


def test_workers_that_see_different_files_are_refused(core: Core, tmp_path: Path) -> None:
    from vllm.exceptions import VLLMValidationError

    core.core.model_executor.collective_rpc = lambda method, args: [(True, None, None), (False, None, None)]
    with pytest.raises(VLLMValidationError, match="workers see different files"):
        core.add("r", list(PROMPT), lora_of(tmp_path / "gone", "gone"))


def test_a_front_end_without_the_files_asks_the_core(core: Core, alora: Any, tmp_path: Path) -> None:
    """What vLLM's utility call carries: plain data, for an adapter that may come as a list."""
    import msgspec

    sent = msgspec.to_builtins(alora)
    with core.process():
        assert getattr(core.core, admission.DESCRIBE)(sent) == {"invocation": INVOCATION}
        problem = getattr(core.core, admission.DESCRIBE)(lora_of(tmp_path / "gone", "gone"))["problem"]
    assert "'gone' cannot be read" in problem


def test_a_reload_mark_is_taken_off_once_the_reload_was_made(core: Core, alora: Any) -> None:
    """Else the worker would read the files again in each step; one that asks for a load itself is refused."""
    from msgspec.structs import replace
    from vllm.exceptions import VLLMValidationError

    marked = replace(alora, load_inplace=True)
    with pytest.raises(VLLMValidationError, match="cannot be loaded in place by a generation request"):
        core.add("r", list(PROMPT), marked)
    core.add_lora(marked)
    assert not core.add("r", list(PROMPT), marked).lora_request.load_inplace


@pytest.mark.parametrize("forgets", [False, True], ids=["core knows", "core asks its worker"])
def test_an_adapter_is_what_it_was_when_it_was_loaded(core: Core, alora: Any, forgets: bool) -> None:
    """Its configuration is gone since; a front end that has read it says where it starts."""
    core.add_lora(alora)
    (Path(alora.lora_path) / "adapter_config.json").unlink()
    if forgets:
        core.adapters.note_removal(alora.lora_int_id)
    request = core.add("r", list(PROMPT), alora, extra_args={ACTIVATION_KEY: 10})
    assert activation_of(request.sampling_params) == 10


def test_an_alora_of_its_front_end_is_never_a_plain_lora_here(core: Core) -> None:
    """The worker has loaded other weights from memory than the files that the front end has."""
    from vllm.exceptions import VLLMValidationError

    lora = lora_of("simon_lora_path", "123")
    core.worker.in_memory["simon_lora_path"] = "tensors"
    core.worker.manager.add_adapter(lora)
    with pytest.raises(VLLMValidationError, match="is an aLoRA for its front end and none here"):
        core.add("r", list(PROMPT), lora, extra_args={ACTIVATION_KEY: 10})
