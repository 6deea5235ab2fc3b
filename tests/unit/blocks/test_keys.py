"""Invariant 2: keys are equal exactly where KV content is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aloraserve.blocks import AdapterEffect, KeySpace
from aloraserve.blocks.keys import KEY_BYTES

SPACE = KeySpace("model", "tokenizer", 4)
prompts = st.lists(st.integers(0, 2**32 - 1), max_size=60)
salts = st.none() | st.text(max_size=3)


def effect(activation: int, name: str = "x", digest: str = "d") -> AdapterEffect:
    return AdapterEffect(name, digest, activation)


@given(prompts)
def test_each_whole_block_has_one_key(prompt: list[int]) -> None:
    found = SPACE.keys(prompt)
    assert len(found) == len(set(found)) == len(prompt) // 4
    assert all(len(key) == KEY_BYTES for key in found)


@given(prompts, prompts, salts)
def test_a_longer_prompt_starts_with_the_same_keys(prompt: list[int], more: list[int], salt: str | None) -> None:
    short = SPACE.keys(prompt, cache_salt=salt)
    assert SPACE.keys(prompt + more, cache_salt=salt)[: len(short)] == short


@given(prompts.filter(lambda prompt: len(prompt) >= 4), st.data())
def test_a_changed_token_changes_its_block_and_all_later_ones(prompt: list[int], data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(prompt) // 4 * 4 - 1))
    changed = [*prompt[:at], prompt[at] ^ 1, *prompt[at + 1 :]]
    before, after = SPACE.keys(prompt), SPACE.keys(changed)
    assert before[: at // 4] == after[: at // 4]
    assert not set(before[at // 4 :]) & set(after[at // 4 :])


@given(prompts, st.integers(-3, 70))
def test_an_alora_shares_with_base_exactly_the_blocks_before_activation(prompt: list[int], at: int) -> None:
    base, adapted = SPACE.keys(prompt), SPACE.keys(prompt, adapter=effect(at))
    shared = min(max(at, 0), len(prompt)) // 4
    assert len(adapted) == len(base)
    assert adapted[:shared] == base[:shared]
    assert not set(adapted[shared:]) & set(base)


@given(prompts, st.integers(0, 70), st.integers(0, 70))
def test_sibling_aloras_share_the_blocks_before_both_activations(prompt: list[int], one: int, two: int) -> None:
    first = SPACE.keys(prompt, adapter=effect(one, "x"))
    second = SPACE.keys(prompt, adapter=effect(two, "y"))
    shared = min(one, two, len(prompt)) // 4
    assert first[:shared] == second[:shared]
    assert not set(first[shared:]) & set(second[shared:])


@given(prompts)
def test_a_plain_lora_shares_nothing_with_base(prompt: list[int]) -> None:
    assert not set(SPACE.keys(prompt, adapter=effect(0))) & set(SPACE.keys(prompt))


@given(prompts)
def test_a_changed_digest_shares_nothing(prompt: list[int]) -> None:
    old, new = effect(0, digest="old"), effect(0, digest="new")
    assert not set(SPACE.keys(prompt, adapter=old)) & set(SPACE.keys(prompt, adapter=new))


@given(prompts, salts, salts, st.none() | st.builds(effect, st.integers(0, 60)))
def test_tenants_share_nothing(
    prompt: list[int], one: str | None, two: str | None, adapter: AdapterEffect | None
) -> None:
    first = SPACE.keys(prompt, cache_salt=one, adapter=adapter)
    second = SPACE.keys(prompt, cache_salt=two, adapter=adapter)
    if one == two:
        assert first == second
    else:
        assert not set(first) & set(second)


@pytest.mark.parametrize(
    "other",
    [KeySpace("other", "tokenizer", 4), KeySpace("model", "other", 4), KeySpace("model", "tokenizer", 2)],
)
def test_fleets_share_nothing(other: KeySpace) -> None:
    prompt = list(range(32))
    assert other.fingerprint != SPACE.fingerprint
    assert not set(other.keys(prompt)) & set(SPACE.keys(prompt))


def test_a_block_needs_a_token() -> None:
    with pytest.raises(ValueError, match="block_tokens is 0"):
        KeySpace("model", "tokenizer", 0)


@given(prompts, st.integers(0, 70), st.integers(0, 70))
def test_another_activation_point_changes_the_block_that_it_lies_in(prompt: list[int], one: int, two: int) -> None:
    """The same tokens with more or fewer of them the adapter's are other content."""
    keys = [SPACE.keys(prompt, adapter=effect(activation)) for activation in (one, two)]
    if one == two:
        assert keys[0] == keys[1]
    else:
        same = min(one, two) // SPACE.block_tokens
        assert keys[0][:same] == keys[1][:same]
        assert not set(keys[0][same:]) & set(keys[1][same:])


@given(prompt=prompts, at=st.integers(0, 60), known=st.integers(0, 20), is_base=st.booleans())
def test_keys_continue_from_those_that_are_known(prompt: list[int], at: int, known: int, is_base: bool) -> None:
    adapter = None if is_base else AdapterEffect("safety", "d1", min(at, len(prompt)))
    given_keys = SPACE.keys(prompt, cache_salt="acme")[:known]
    wanted = SPACE.keys(prompt, cache_salt="acme", adapter=adapter)
    assert SPACE.keys(prompt, cache_salt="acme", adapter=adapter, known=given_keys) == wanted


class TestPublicBlocks:
    """The first blocks of a prompt may be everybody's; behind them each tenant has its own."""

    @given(
        st.lists(st.integers(0, 50), min_size=0, max_size=40),
        st.integers(0, 10),
        st.none() | st.integers(0, 40),
        st.sampled_from(["tenant:1:a", "tenant:1:b", None]),
    )
    def test_exactly_the_public_blocks_are_nobodys(
        self, token_ids: list[int], public: int, activation: int | None, salt: str | None
    ) -> None:
        effect = None if activation is None else AdapterEffect("safety", "digest", min(activation, len(token_ids)))
        base_blocks = (len(token_ids) if effect is None else effect.activation) // SPACE.block_tokens
        public = min(public, base_blocks)
        nobodys = SPACE.keys(token_ids, adapter=effect)
        own = SPACE.keys(token_ids, cache_salt=salt, adapter=effect, public_blocks=public)
        assert own[:public] == nobodys[:public]
        if salt is not None:
            assert not set(own[public:]) & set(nobodys)
            other = SPACE.keys(token_ids, cache_salt=f"{salt}!", adapter=effect, public_blocks=public)
            assert not set(own[public:]) & set(other)
        for count in range(public, base_blocks + 1):
            again = SPACE.keys(token_ids, cache_salt=salt, adapter=effect, known=own[:count], public_blocks=public)
            assert again == own

    def test_without_public_blocks_keys_are_as_they_were(self) -> None:
        assert SPACE.keys(range(40), cache_salt="t", public_blocks=0) == SPACE.keys(range(40), cache_salt="t")
        assert SPACE.origin("t", 0, []) == SPACE.root("t")
