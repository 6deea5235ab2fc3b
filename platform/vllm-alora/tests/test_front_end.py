"""What the front end refuses, by name, before anything runs; and what it knows of adapters."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest

from vllm_alora import setups, versions
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


def nested(name: str, *inner: str) -> Any:
    """A ``MultiConnector`` in a ``MultiConnector``."""
    inside = {
        "kv_connector": name,
        "kv_connector_extra_config": {"connectors": [{"kv_connector": one} for one in inner]},
    }
    extra = {"connectors": [inside]}
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
    (connector("LMCacheConnectorV1Dynamic"), request(), "LMCacheConnectorV1Dynamic"),
    (
        config(kv_transfer_config=SimpleNamespace(kv_connector="NixlConnector", kv_connector_module_path="my.module")),
        request(),
        "NixlConnector",
    ),
    (nested("MultiConnector", "OffloadingConnector", "UCMConnector"), request(), "UCMConnector"),
]


@pytest.mark.parametrize(("vllm_config", "call", "said"), REFUSED, ids=[said for *_, said in REFUSED])
def test_what_cannot_be_exact_is_refused_by_name(vllm_config: Any, call: Any, said: str) -> None:
    from vllm.exceptions import VLLMValidationError

    with pytest.raises(VLLMValidationError, match=f"(?s)'certainty'.*{said}"):
        front_end._refuse_unsupported(vllm_config, call)


@pytest.mark.parametrize("name", ["NixlConnector", "OffloadingConnector", "MooncakeStoreConnector"])
def test_connectors_that_go_by_block_hashes_are_served(name: str) -> None:
    front_end._refuse_unsupported(connector(name), request())
    front_end._refuse_unsupported(nested("MultiConnector", name), request())


def test_the_fields_that_refusals_read_are_vllms_own() -> None:
    """A renamed flag would not be refused any more, and nobody would notice."""
    from vllm.config import CacheConfig, KVTransferConfig, LoRAConfig, ParallelConfig
    from vllm.distributed.kv_transfer.kv_connector.factory import KVConnectorFactory

    for owner, names in (
        (LoRAConfig, setups.LORA_FLAGS),
        (CacheConfig, ("kv_sharing_fast_prefill",)),
        (ParallelConfig, ("prefill_context_parallel_size",)),
        (KVTransferConfig, ("kv_connector", "kv_connector_extra_config", "kv_connector_module_path")),
    ):
        assert set(names) <= {field.name for field in dataclasses.fields(owner)}
    # HiSparse came with vLLM 0.30.
    assert setups.BLOCK_CONNECTORS - set(KVConnectorFactory._registry) <= {"HiSparseConnector"}


@pytest.mark.parametrize("platform", ["is_cuda_alike", "is_cpu", None])
def test_platforms_whose_kernels_nobody_has_tried_are_refused(
    platform: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """vLLM's CPU wrapper is the base of out-of-tree ones; XPU has kernels of its own."""
    import vllm.platforms
    from vllm.exceptions import VLLMValidationError

    here = MagicMock(device_name="npu")
    for name in ("is_cuda_alike", "is_cpu"):
        getattr(here, name).return_value = name == platform
    monkeypatch.setattr(vllm.platforms, "current_platform", here)
    with (
        contextlib.nullcontext()
        if platform
        else pytest.raises(VLLMValidationError, match=r"on npu.*CUDA, ROCm and CPU")
    ):
        setups.refuse_setup(config(), "certainty")


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
    for content in ({}, {"alora_invocation_tokens": None}):
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


@pytest.mark.parametrize("path", ["/nowhere", "simon_lora_path", "nobody/has-downloaded-this"])
def test_files_that_are_not_here_are_no_error_and_no_download(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The front end may lack the workers' disk; adapters from memory have no files at all."""
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "snapshot_download", MagicMock(side_effect=AssertionError("a download")))
    known, lora = KnownAdapters(), SimpleNamespace(lora_int_id=1, lora_name="a", lora_path=path, load_inplace=False)
    assert known.invocation(lora) is None
    assert not known.knows(lora), "they may come"
    known.learn(lora, (5,))
    assert known.invocation(lora) == (5,)


def test_adapters_may_be_read_and_loaded_at_once(tmp_path: Path) -> None:
    """The event loop, the renderer's threads and loads meet here."""
    known, lora, stop = KnownAdapters(), write(tmp_path / "a", alora_invocation_tokens=[5]), threading.Event()

    def load() -> None:
        while not stop.is_set():
            known.note_load(lora)

    thread = threading.Thread(target=load)
    thread.start()
    try:
        assert {known.invocation(lora) for _ in range(200)} == {(5,)}
    finally:
        stop.set()
        thread.join()


def test_what_was_read_before_a_load_is_not_kept_after_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A load that comes while the old files are read."""
    from vllm_alora import adapters

    known, lora = KnownAdapters(), write(tmp_path / "a", alora_invocation_tokens=[5])
    read = adapters.read_adapter

    def read_slowly(lora_request: Any) -> Any:
        found = read(lora_request)
        if found == ((5,),):
            write(tmp_path / "a", alora_invocation_tokens=[6])
            known.note_load(lora)
        return found

    monkeypatch.setattr(adapters, "read_adapter", read_slowly)
    assert known.invocation(lora) == (6,)


def test_beam_search_with_an_alora_is_refused(tmp_path: Path) -> None:
    """Offline and in the server, before the first beam."""
    from vllm.exceptions import VLLMValidationError

    from vllm_alora.patches import beam_search

    def search(self: Any, prompts: Any, params: Any, lora_request: Any = None) -> str:
        return "searched"

    wrapped = beam_search._wrap(search)
    plain = write(tmp_path / "plain")
    alora = SimpleNamespace(**{**vars(write(tmp_path / "a", alora_invocation_tokens=[5])), "lora_int_id": 2})
    for adapters in (alora, [plain, alora]):
        with pytest.raises(VLLMValidationError, match="'a' cannot be used in beam search"):
            wrapped(None, [], None, lora_request=adapters)
    assert wrapped(None, [], None, [plain, None]) == wrapped(None, [], None) == "searched"


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
