"""A prompt's first tokens that are everybody's: where the salt goes then, and who may say so."""

from __future__ import annotations

from typing import Any

import pytest
from test_keys import BLOCK, keys, request

import vllm_alora
from vllm_alora.activation import ACTIVATION_KEY
from vllm_alora.shared_prefix import PUBLIC_KEY, TRUSTED_VARIABLE


@pytest.fixture(scope="module", autouse=True)
def registered() -> None:
    """Load the plugin."""
    vllm_alora.register()


@pytest.fixture(autouse=True)
def trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TRUSTED_VARIABLE, "1")


def salted(public: Any, salt: str | None = "tenant", activation: int | None = None, name: str | None = None) -> Any:
    made = request(activation, name=name, salt=salt)
    made.sampling_params.extra_args = {PUBLIC_KEY: public} | (
        {} if activation is None else {ACTIVATION_KEY: activation}
    )
    return made


@pytest.mark.parametrize("blocks", [1, 2, 3])
def test_the_salt_is_in_the_first_block_that_is_not_everybodys(blocks: int) -> None:
    nobodys, own = request(None, name=None), request(None, name=None, salt="tenant")
    made = salted(blocks * BLOCK)
    assert [keys(made, block) for block in range(blocks)] == [keys(nobodys, block) for block in range(blocks)]
    assert keys(made, blocks) == keys(own, 0) != ()
    assert [keys(made, block) for block in range(blocks + 1, 4)] == [()] * (3 - blocks)


@pytest.mark.parametrize("public", [BLOCK - 1, 1])
def test_a_block_of_which_a_part_is_not_everybodys_is_salted(public: int) -> None:
    assert keys(salted(public), 0) == keys(request(None, name=None, salt="tenant"), 0)


def test_two_tenants_differ_behind_the_prefix() -> None:
    one, other = salted(BLOCK, "a"), salted(BLOCK, "b")
    assert keys(one, 0) == keys(other, 0)
    assert keys(one, 1) != keys(other, 1)


@pytest.mark.parametrize("activation", [2 * BLOCK, 2 * BLOCK + 5])
def test_an_adapter_begins_behind_the_prefix(activation: int) -> None:
    made = salted(2 * BLOCK, activation=activation, name="certainty")
    assert keys(made, 0) == keys(made, 1) == ()
    own = request(activation, salt="tenant")
    assert keys(made, 2) == (*keys(own, 2), *keys(request(None, name=None, salt="tenant"), 0))


@pytest.mark.parametrize("public", [None, -1, True, "32", 1.5])
def test_what_is_not_an_index_leaves_the_salt_in_the_first_block(public: Any) -> None:
    found = [keys(salted(public), block) for block in range(4)]
    assert found == [keys(request(None, name=None, salt="tenant"), block) for block in range(4)]


def test_where_nobody_is_trusted_the_key_counts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TRUSTED_VARIABLE)
    own = request(None, name=None, salt="tenant")
    assert [keys(salted(BLOCK), block) for block in range(4)] == [keys(own, block) for block in range(4)]


def test_a_request_without_a_salt_has_none_anywhere() -> None:
    assert [keys(salted(BLOCK, None), block) for block in range(4)] == [()] * 4


def test_vllms_own_hashes_agree_for_exactly_the_prefix() -> None:
    """Chained hashes, as its scheduler makes and looks them up."""
    from vllm import SamplingParams
    from vllm.utils.hashing import sha256_cbor
    from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
    from vllm.v1.request import Request

    init_none_hash(sha256_cbor)
    hasher = get_request_block_hasher(BLOCK, sha256_cbor)

    def hashes(salt: str | None, public: int) -> list[bytes]:
        made = Request(
            request_id="r",
            prompt_token_ids=list(range(5 * BLOCK + 3)),
            sampling_params=SamplingParams(max_tokens=1, extra_args={PUBLIC_KEY: public} if public else None),
            pooling_params=None,
            cache_salt=salt,
            block_hasher=hasher,
        )
        return list(made.block_hashes)

    nobodys, one, other = hashes(None, 0), hashes("a", 2 * BLOCK), hashes("b", 2 * BLOCK)
    assert nobodys[:2] == one[:2] == other[:2]
    assert not set(nobodys[2:]) & set(one[2:])
    assert not set(one[2:]) & set(other[2:])
    assert not set(hashes("a", 0)) & set(one)
