"""Several intrinsics over one warm conversation: together, one after the other, and as plain LoRA adapters.

The arms take turns, each with conversations of its own of the same length, which the base model has computed before.
Each is asked twice: ``first``, and ``returning`` after the base model's next turn. Plain LoRA adapters then find what
they themselves computed the first time, which is all that they can reuse.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from aloraserve.wire.answer_stream import CallFailedError
from aloraserve_services.models.untrained import TWIN_SUFFIX
from benchmarks.gateway_calls import Bodies
from benchmarks.intrinsics_result import FIRST, LORA, RETURNING, SEPARATE, TOGETHER, IntrinsicsSample

NAMES = ("uncertainty", "safety", "hallucination", "answerability", "relevance")
COUNTS = (1, 3, 5)
TURN_TOKENS = 100
GENERATION_PROMPT_TOKENS = 3
"""``<|im_start|>assistant`` and the end of that line: a base call has them, an intrinsic's prompt does not."""
TIMEOUT_S = 600.0

Message = dict[str, str]


@dataclass(frozen=True, slots=True)
class Asked:
    """What came of one request.

    Args:
        wall_s: until its answer was there.
        prompts: tokens of each intrinsic's prompt.
        cached: of those, not prefilled.
    """

    wall_s: float
    prompts: Sequence[int]
    cached: Sequence[int]


class IntrinsicsClient:
    """Asks a platform as an application does, one request at a time.

    Args:
        http: client of it.
        base: the base model's served name.
        block_tokens: of the fleet.
    """

    def __init__(self, http: httpx.Client, base: str, block_tokens: int) -> None:
        self._http = http
        self._base = base
        self._block_tokens = block_tokens

    def warm(self, conversation: list[Message]) -> int:
        """Have the base model compute a conversation; return the tokens of it that intrinsics find in whole blocks."""
        body = {"model": self._base, "messages": conversation, "max_tokens": 2, "temperature": 0}
        usage = self._post("/v1/chat/completions", body)["usage"]
        shared = int(usage["prompt_tokens"]) - GENERATION_PROMPT_TOKENS
        return shared // self._block_tokens * self._block_tokens

    def ask(self, conversation: list[Message], names: Sequence[str]) -> Asked:
        """Ask intrinsics in one request.

        Raises:
            CallFailedError: one of them failed.
        """
        body = {"messages": conversation, "intrinsics": list(names), "timeout_s": TIMEOUT_S}
        started = time.perf_counter()
        results = self._post("/v1/intrinsics", body)["results"]
        took_s = time.perf_counter() - started
        if lost := [result for result in results if "usage" not in result]:
            raise CallFailedError(f"{lost[0]['name']} failed: {lost[0]['error']['message']}")
        usages = [result["usage"] for result in results]
        return Asked(took_s, [usage["prompt_tokens"] for usage in usages], [usage["cached_tokens"] for usage in usages])

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        answer = self._http.post(path, json=body)
        if not answer.is_success:
            raise CallFailedError(f"{path} answered {answer.status_code}: {answer.text[:300]}")
        return dict(answer.json())


class IntrinsicsBench:
    """Takes samples on a running, idle platform.

    Args:
        client: of it.
        bodies: makes messages of an exact length; their words are random, equal for equal seeds.
        names: of the intrinsics; each has a plain LoRA twin.
        tokens: of a conversation.
        seed: of the first conversation.
        progress: called with what happens.
    """

    def __init__(
        self,
        client: IntrinsicsClient,
        bodies: Bodies,
        names: Sequence[str],
        *,
        tokens: int,
        seed: int,
        progress: Callable[[str], None],
    ) -> None:
        self._client = client
        self._bodies = bodies
        self._names = names
        self._tokens = tokens
        self._seed = seed
        self._progress = progress

    def run(self, rounds: int, counts: Sequence[int] = COUNTS) -> list[IntrinsicsSample]:
        """Return the samples of all arms; each was called once before."""
        self._progress("warming up: every adapter is called")
        opening = [self._message(64)]
        for arm in (TOGETHER, LORA):
            for names in _requests(arm, self._names):
                self._client.ask(opening, names)
        arms = [TOGETHER, SEPARATE, LORA]
        samples: list[IntrinsicsSample] = []
        for number in range(rounds):
            for count in counts:
                self._progress(f"round {number + 1} of {rounds}, {count} intrinsics")
                for arm in arms:
                    samples += self._conversation(arm, self._names[:count])
                arms.append(arms.pop(0))
        return samples

    def _conversation(self, arm: str, names: Sequence[str]) -> Iterator[IntrinsicsSample]:
        """Yield the samples of a conversation of an arm's own, in both states."""
        conversation = [self._message(self._tokens)]
        yield self._sample(arm, FIRST, conversation, names)
        conversation += [{"role": "assistant", "content": "I see."}, self._message(TURN_TOKENS)]
        yield self._sample(arm, RETURNING, conversation, names)

    def _sample(self, arm: str, state: str, conversation: list[Message], names: Sequence[str]) -> IntrinsicsSample:
        shared = self._client.warm(conversation)
        asked = [self._client.ask(conversation, part) for part in _requests(arm, names)]
        prompts = [tokens for one in asked for tokens in one.prompts]
        cached = [tokens for one in asked for tokens in one.cached]
        return IntrinsicsSample(
            arm=arm,
            state=state,
            count=len(names),
            wall_s=sum(one.wall_s for one in asked),
            slowest_s=max(one.wall_s for one in asked),
            prefilled=sum(prompts) - sum(cached),
            tails=sum(prompts) - shared * len(prompts),
        )

    def _message(self, tokens: int) -> Message:
        self._seed += 1
        return {"role": "user", "content": self._bodies.text(self._seed, tokens)}


def _requests(arm: str, names: Sequence[str]) -> list[list[str]]:
    """Return the requests of an arm, each with the names in it."""
    if arm == SEPARATE:
        return [[name] for name in names]
    return [[name + (TWIN_SUFFIX if arm == LORA else "") for name in names]]
