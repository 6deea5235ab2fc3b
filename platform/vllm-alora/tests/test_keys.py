"""Block keys with vLLM's own requests: what goes, what stays, and in which order."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

import vllm_alora
from vllm_alora.activation import ACTIVATION_KEY

BLOCK = 32


@pytest.fixture(scope="module", autouse=True)
def registered() -> None:
    """Load the plugin."""
    vllm_alora.register()


def keys(request: Any, block: int) -> tuple[Any, ...]:
    from vllm.v1.core import kv_cache_utils

    found, _ = kv_cache_utils.generate_block_hash_extra_keys(request, block * BLOCK, (block + 1) * BLOCK, 0)
    return found or ()


def request(activation: int | None, *, name: str | None = "certainty", salt: str | None = None, images: int = 0) -> Any:
    from vllm.lora.request import LoRARequest

    features = [
        SimpleNamespace(identifier=f"image-{number}", mm_position=SimpleNamespace(offset=BLOCK * number, length=BLOCK))
        for number in range(images)
    ]
    return SimpleNamespace(
        lora_request=LoRARequest(name, 1, f"/adapters/{name}") if name else None,
        sampling_params=SimpleNamespace(extra_args=None if activation is None else {ACTIVATION_KEY: activation}),
        cache_salt=salt,
        mm_features=features,
        prompt_embeds=None,
        prompt_token_ids=list(range(4 * BLOCK)),
    )


@pytest.mark.parametrize("images", [0, 3], ids=["text", "images"])
@pytest.mark.parametrize("salt", [None, "tenant"])
def test_blocks_before_the_activation_point_have_exactly_the_base_models_keys(salt: str | None, images: int) -> None:
    """Salts, multimodal identifiers and their order included."""
    base = request(None, name=None, salt=salt, images=images)
    alora = request(2 * BLOCK, salt=salt, images=images)
    for block in (0, 1):
        assert keys(alora, block) == keys(base, block)
    if salt or images:
        assert keys(alora, 0)


@pytest.mark.parametrize("activation", [2 * BLOCK, 2 * BLOCK + 1, 3 * BLOCK - 1])
def test_from_the_activation_point_on_blocks_are_the_adapters(activation: int) -> None:
    """The block that contains it too, with where in it that is."""
    plain = request(None, images=3)
    alora = request(activation, images=3)
    assert keys(alora, 3) == keys(plain, 3)
    inside = activation % BLOCK
    adapter, *rest = keys(plain, 2)
    assert keys(alora, 2) == (adapter, *([("alora", inside)] if inside else []), *rest)
    assert keys(alora, 2) != keys(request(None, name=None, images=3), 2)


def test_adapters_never_share_what_they_changed() -> None:
    """Not by another name, and not by the same name under another path; nor with a base call whose salt is the name."""
    assert keys(request(0, name="a"), 0) != keys(request(0, name="b"), 0)
    moved = request(0, name="a")
    moved.lora_request = type(moved.lora_request)("a", 2, "/elsewhere/a")
    assert keys(moved, 0) != keys(request(0, name="a"), 0)
    assert keys(request(0, name="a"), 0) != keys(request(None, name=None, salt="a"), 0)


def test_one_that_never_activates_is_the_base_model() -> None:
    """``VLLM_ALORA_ABSENT=base``."""
    from vllm_alora.activation import NEVER

    for block in range(4):
        assert keys(request(NEVER, salt="t"), block) == keys(request(None, name=None, salt="t"), block)
