"""A vision model with aLoRA adapters: pictures stand in the keys of all blocks, and answers are PEFT's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from tiny import ADAPTERS, Answer, Engine, started_engine, words, write_adapter
from vision import IMAGE, PLACE, TEXT_LINEARS, VisionReference, picture, write_vision_model

pytestmark = pytest.mark.engine

TOLERANCE = 5e-4
"""Of log-probabilities. The vision tower rounds too: 1.3e-4 was seen."""
CAT, DOG = picture(0), picture(1)
ALORA, LORA = "certainty", "style"
INVOCATION = list(ADAPTERS[ALORA][1] or ())
QUESTION = [*words(40, 700), IMAGE, *words(60, 701)]
"""One whole block, a picture of 39 tokens from the middle of the second on, and text: four whole blocks in all."""
INVOKED = [*QUESTION, *INVOCATION, *words(5, 702)]


class Vision:
    """A running engine, and the reference that each of its answers is held to."""

    def __init__(self, engine: Engine, reference: VisionReference) -> None:
        self._engine = engine
        self._reference = reference

    def exact(self, *calls: tuple[list[int], Sequence[Any], str | None]) -> list[Answer]:
        """Run calls (prompt, pictures, adapter) in one batch."""
        answers = self._engine.answers(
            [(prompt, adapter) for prompt, _, adapter in calls], pictures=[pictures for _, pictures, _ in calls]
        )
        for (prompt, pictures, adapter), answer in zip(calls, answers, strict=True):
            expected = self._reference.answer(prompt, pictures, adapter, answer.tokens)
            assert answer.tokens == expected.tokens, f"{adapter} with {len(pictures)} pictures"
            assert answer.logprobs == pytest.approx(expected.logprobs, abs=TOLERANCE), adapter
        return answers

    def cached(self, prompt: list[int], seen: Any, adapter: str | None) -> int:
        """Run one call exactly and return how many of its tokens were cached."""
        return self.exact((prompt, [seen], adapter))[0].cached_tokens

    def forget(self) -> None:
        """Empty the cache."""
        assert self._engine.llm.reset_prefix_cache()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vision]:
    """A vision model and its two adapters on all seven linears of its text model."""
    model_path = write_vision_model(tmp_path_factory.mktemp("tiny-vision"))
    adapters_path = tmp_path_factory.mktemp("vision-adapters")
    for seed, name in enumerate((ALORA, LORA)):
        rank, invocation = ADAPTERS[name]
        write_adapter(
            adapters_path / name,
            model_path,
            rank=rank,
            invocation=invocation,
            seed=seed,
            kind="AutoModelForImageTextToText",
            target_modules=TEXT_LINEARS,
        )
    with started_engine(model_path, adapters_path, limit_mm_per_prompt={"image": 2}) as engine:
        yield Vision(engine, VisionReference(model_path, adapters_path, (ALORA, LORA)))


@pytest.fixture
def vision(running: Vision) -> Vision:
    """The engine with an empty cache."""
    running.forget()
    return running


def test_base_and_alora_share_a_picture_and_nobody_another_one(vision: Vision) -> None:
    """Before the activation point the blocks are the base model's, in both directions, for this picture alone."""
    assert vision.cached(QUESTION, CAT, None) == 0
    assert vision.cached(INVOKED, CAT, ALORA) == 128
    assert vision.cached(INVOKED, DOG, ALORA) == 32, "the text before the picture"
    assert vision.cached(QUESTION, DOG, None) == 128, "what the aLoRA call left behind"
    assert vision.cached(QUESTION, CAT, None) == 128


def test_a_plain_lora_shares_with_its_own_calls_about_the_same_picture(vision: Vision) -> None:
    assert vision.cached(QUESTION, CAT, None) == 0
    assert [vision.cached(QUESTION, seen, LORA) for seen in (CAT, CAT, DOG)] == [0, 128, 32]


def test_a_picture_behind_the_activation_point_is_keyed_by_adapter_and_picture(vision: Vision) -> None:
    """The activation point lies eight tokens into the second block, and the picture follows."""
    prompt = [*words(40, 700), *INVOCATION, *words(10, 703), IMAGE, *words(60, 704)]
    assert [vision.cached(prompt, seen, ALORA) for seen in (CAT, CAT, DOG, DOG)] == [0, 128, 32, 128]
    assert vision.cached(prompt, CAT, None) == 32


def test_pictures_are_told_apart_by_their_place(vision: Vision) -> None:
    """Two pictures, then the same two the other way round."""
    prompt = [IMAGE, *words(3, 705), IMAGE, *words(30, 706), *INVOCATION]
    assert len(prompt) - 2 + 2 * len(PLACE) > 96
    first = vision.exact((prompt, [CAT, DOG], ALORA), (prompt, [DOG, CAT], ALORA))
    assert first[0].tokens != first[1].tokens
    again = vision.exact((prompt, [DOG, CAT], ALORA), (prompt, [CAT, DOG], ALORA), (prompt, [CAT, CAT], ALORA))
    assert [answer.cached_tokens for answer in again] == [96, 96, 32]


def test_calls_of_every_kind_in_one_batch_are_exact(vision: Vision) -> None:
    """Chunks of 128 tokens; pictures and adapters matter to every answer."""
    calls = [
        (QUESTION, [CAT], None),
        (INVOKED, [CAT], ALORA),
        (INVOKED, [DOG], ALORA),
        (QUESTION, [DOG], LORA),
        (QUESTION, [DOG], None),
        (words(50, 707), [], None),
        ([*words(50, 707), *INVOCATION], [], ALORA),
    ]
    cold, warm = vision.exact(*calls), vision.exact(*calls)
    assert [answer.tokens for answer in cold] == [answer.tokens for answer in warm]
    assert len({tuple(answer.tokens) for answer in cold}) == len(calls)
