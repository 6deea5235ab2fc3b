"""Keys behind a shared prefix are remembered exactly, and within bounds."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from aloraserve.blocks import KeySpace
from aloraserve.serving.prompts.public_keys import PublicPrefixKeys

WIDTH = 4
SPACE = KeySpace("model", "tokenizer", WIDTH)
PROMPTS = st.lists(st.integers(0, 1), max_size=40)


def keys(salt: str, public: int, token_ids: list[int]) -> list[bytes]:
    return SPACE.keys(token_ids, cache_salt=salt, public_blocks=public)


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 3), PROMPTS), max_size=12))
def test_what_is_found_are_the_prompt_s_own_keys(turns: list[tuple[str, int, list[int]]]) -> None:
    memory = PublicPrefixKeys(WIDTH, max_tokens=120)
    for salt, public, token_ids in turns:
        own = keys(salt, min(public, len(token_ids) // WIDTH), token_ids)
        found = memory.find(salt, public, token_ids)
        assert list(found) == own[: len(found)]
        if len(token_ids) // WIDTH >= public:
            memory.remember(salt, public, token_ids, own)
            assert list(memory.find(salt, public, token_ids)) == own
            longer = [*token_ids, *token_ids]
            assert list(memory.find(salt, public, longer)) in ([], own), "the beginning of a short one is another"
        assert memory._tokens <= 120


def test_a_conversation_goes_on_from_what_is_known_and_parts_where_it_differs() -> None:
    memory, prompt = PublicPrefixKeys(WIDTH), list(range(80))
    own = keys("a", 2, prompt)
    memory.remember("a", 2, prompt, own)
    assert list(memory.find("a", 2, [*prompt, 1, 2, 3])) == own
    for changed in (16, 31, 50, 79):
        other = [*prompt[:changed], 999, *prompt[changed + 1 :]]
        assert list(memory.find("a", 2, other)) == own[: changed // WIDTH]
    for salt, public in (("b", 2), ("a", 1), ("a", 3)):
        assert list(memory.find(salt, public, prompt)) == []


def test_the_longest_unused_go_first() -> None:
    memory = PublicPrefixKeys(WIDTH, max_tokens=100)
    prompts = [[number] * 40 for number in range(3)]
    for prompt in prompts[:2]:
        memory.remember("a", 1, prompt, keys("a", 1, prompt))
    assert memory.find("a", 1, prompts[0])
    memory.remember("a", 1, prompts[2], keys("a", 1, prompts[2]))
    assert [bool(memory.find("a", 1, prompt)) for prompt in prompts] == [True, False, True]
