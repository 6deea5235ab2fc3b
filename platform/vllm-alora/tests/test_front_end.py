"""What the front end refuses, by name, before anything runs; and what it knows of adapters."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vllm_alora import versions
from vllm_alora.adapters import KnownAdapters, UnreadableAdapterError
from vllm_alora.patches import front_end
from vllm_alora.patches.seam import UnsupportedVllmError


def config(**changes: Any) -> Any:
    found = {
        "lora_config": SimpleNamespace(specialize_active_lora=False, enable_tower_connector_lora=False),
        "parallel_config": SimpleNamespace(prefill_context_parallel_size=1),
        "cache_config": SimpleNamespace(kv_sharing_fast_prefill=False),
        "kv_transfer_config": None,
    }
    return SimpleNamespace(**{**found, **changes})


def request(**changes: Any) -> Any:
    found = {
        "lora_request": SimpleNamespace(lora_name="certainty"),
        "sampling_params": SimpleNamespace(extra_args=None),
        "prompt_token_ids": [1, 2, 3],
        "prompt_embeds": None,
        "resumable": False,
    }
    return SimpleNamespace(**{**found, **changes})


def connector(name: str, *inner: str) -> Any:
    extra = {"connectors": [{"kv_connector": one} for one in inner]}
    return config(kv_transfer_config=SimpleNamespace(kv_connector=name, kv_connector_extra_config=extra))


LORA = {"specialize_active_lora": False, "enable_tower_connector_lora": False}
REFUSED = [
    (config(), request(sampling_params=None), "pooling"),
    (config(), request(prompt_token_ids=None), "prompt embeddings"),
    (config(), request(prompt_embeds=object()), "prompt embeddings"),
    (config(), request(resumable=True), "resumable"),
    (config(lora_config=SimpleNamespace(**{**LORA, "specialize_active_lora": True})), request(), "specialize_active"),
    (
        config(lora_config=SimpleNamespace(**{**LORA, "enable_tower_connector_lora": True})),
        request(),
        "tower_connector",
    ),
    (config(parallel_config=SimpleNamespace(prefill_context_parallel_size=2)), request(), "context parallelism"),
    (config(cache_config=SimpleNamespace(kv_sharing_fast_prefill=True)), request(), "kv_sharing_fast_prefill"),
    (connector("ExampleConnector"), request(), "ExampleConnector, which finds blocks by tokens alone"),
    (connector("MultiConnector", "NixlConnector", "LMCacheConnectorV1"), request(), "LMCacheConnectorV1"),
]


@pytest.mark.parametrize(("vllm_config", "call", "said"), REFUSED, ids=[said for *_, said in REFUSED])
def test_what_cannot_be_exact_is_refused_by_name(vllm_config: Any, call: Any, said: str) -> None:
    from vllm.exceptions import VLLMValidationError

    with pytest.raises(VLLMValidationError, match=f"(?s)'certainty'.*{said}"):
        front_end._refuse_unsupported(vllm_config, call)


@pytest.mark.parametrize("name", ["NixlConnector", "OffloadingConnector", "MooncakeStoreConnector"])
def test_connectors_that_go_by_block_hashes_are_served(name: str) -> None:
    front_end._refuse_unsupported(connector(name), request())


def write(folder: Path, **content: Any) -> Any:
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(content))
    return SimpleNamespace(lora_int_id=1, lora_name="a", lora_path=str(folder), load_inplace=False)


def test_an_invocation_is_read_once_a_load(tmp_path: Path) -> None:
    known = KnownAdapters()
    lora = write(tmp_path / "a", alora_invocation_tokens=[5, 6])
    assert known.invocation(lora) == (5, 6)
    write(tmp_path / "a", alora_invocation_tokens=[7])
    assert known.invocation(lora) == (5, 6)
    known.note_load(lora)
    assert known.invocation(lora) == (7,)


def test_what_is_not_an_alora_has_no_invocation(tmp_path: Path) -> None:
    for content in ({}, {"alora_invocation_tokens": None}, {"alora_invocation_tokens": []}):
        assert KnownAdapters().invocation(write(tmp_path / "a", **content)) is None


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"alora_invocation_tokens": ["x"]}', '{"alora_invocation_tokens": 5}']
)
def test_an_unreadable_configuration_is_an_error_and_is_read_again(tmp_path: Path, text: str) -> None:
    known = KnownAdapters()
    lora = write(tmp_path / "a")
    (tmp_path / "a" / "adapter_config.json").write_text(text)
    with pytest.raises(UnreadableAdapterError, match="of 'a' cannot be read"):
        known.invocation(lora)
    write(tmp_path / "a", alora_invocation_tokens=[9])
    assert known.invocation(lora) == (9,)


def test_only_so_many_adapters_are_remembered(tmp_path: Path) -> None:
    known = KnownAdapters(max_known=2)
    for number in range(5):
        lora = write(tmp_path / f"a{number}", alora_invocation_tokens=[number])
        known.invocation(SimpleNamespace(**{**vars(lora), "lora_int_id": number}))
    assert len(known._invocations) == 2


@pytest.mark.parametrize(
    ("version", "known"), [("0.28.1", 0), ("0.29.0", 1), ("0.33.0+cpu", 1), ("0.34.0", 0), ("dev", 0)]
)
def test_a_vllm_outside_the_range_is_refused_unless_allowed(
    version: str, known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(versions, "vllm_version", lambda: version)
    monkeypatch.delenv(versions.ALLOW_VARIABLE, raising=False)
    if known:
        versions.check_version()
    else:
        with pytest.raises(UnsupportedVllmError, match=f"{version} is installed.*{versions.ALLOW_VARIABLE}=1"):
            versions.check_version()
    monkeypatch.setenv(versions.ALLOW_VARIABLE, "1")
    versions.check_version()
    monkeypatch.setenv(versions.ALLOW_VARIABLE, "yes")
    with pytest.raises(ValueError, match="'yes'; accepted are '0' and '1'"):
        versions.check_version()
