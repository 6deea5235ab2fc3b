"""Blocks that calls share: who computes them, and who waits."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aloraserve.blocks import KeySpace
from aloraserve.serving.intrinsics.shared_prefix import SharedPrefix

SPACE = KeySpace("model", "tokenizer", 2)


@given(st.lists(st.integers(0, 2), max_size=40), st.lists(st.integers(0, 2), max_size=40))
def test_common_blocks_are_counted_to_the_first_that_differs(one: list[int], other: list[int]) -> None:
    keys, others = SPACE.keys(one), SPACE.keys(other)
    expected = next(
        (n for n, (a, b) in enumerate(zip(keys, others, strict=False)) if a != b), min(len(keys), len(others))
    )
    assert SharedPrefix(keys).common_with(others) == expected


async def test_one_leads_the_others_wait_and_those_that_need_less_go_earlier() -> None:
    prefix, passed = SharedPrefix(SPACE.keys(range(20))), list[str]()
    ends = {name: asyncio.Event() for name in ("first", "short", "long")}

    async def call(name: str, blocks: int) -> None:
        async with prefix.passed(blocks):
            passed.append(name)
            await ends[name].wait()

    tasks = [asyncio.create_task(call(*one)) for one in (("first", 10), ("short", 2), ("long", 8))]
    await _turns()
    assert passed == ["first"]
    prefix.hold(4)
    await _turns()
    assert passed == ["first", "short"]
    prefix.hold(10)
    await _turns()
    assert passed == ["first", "short", "long"]
    for end in ends.values():
        end.set()
    await asyncio.gather(*tasks)


@pytest.mark.parametrize("failure", [ValueError, asyncio.CancelledError])
async def test_whoever_fails_leaves_the_lead_to_the_next(failure: type[BaseException]) -> None:
    prefix, passed = SharedPrefix(SPACE.keys(range(20))), list[str]()

    async def call(name: str, *, fails: bool) -> None:
        async with prefix.passed(5):
            passed.append(name)
            await _turns()
            if fails:
                raise failure
            prefix.hold(5)

    tasks = [asyncio.create_task(call(name, fails=name == "first")) for name in ("first", "second", "third")]
    with contextlib.suppress(failure):
        await tasks[0]
    assert passed[:2] in (["first"], ["first", "second"])
    await asyncio.gather(*tasks[1:])
    assert passed == ["first", "second", "third"]


async def _turns() -> None:
    """Let everything go on that can."""
    for _ in range(10):
        await asyncio.sleep(0)
