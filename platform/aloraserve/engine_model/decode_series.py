"""The answers that are being computed: each step adds a token to each of them, and takes the blocks for it.

Until something else happens all steps are one event, because their times form an arithmetic series: contexts grow by a
token each. Where an answer is in between is asked for when somebody wants to know.
"""

from __future__ import annotations

import heapq
import math

from aloraserve.engine_model.answer_blocks import AnswerBlocks
from aloraserve.engine_model.calibration import DecodeTimes
from aloraserve.engine_model.kv_cache_manager import KVCacheManager
from aloraserve.engine_model.request import Request, RequestId
from aloraserve.engine_model.step_series import StepSeries
from aloraserve.engine_model.step_stats import StepStats


class DecodeSeries:
    """See the module's docstring. After :meth:`reserve_step` steps run from :meth:`begin` or :meth:`begin_step` to
    :meth:`end`.

    The steps that are to run have their blocks from the start; what :meth:`cut` takes from them is given back.

    Args:
        times: of a step.
        kv_cache_manager: where blocks come from.

    Attributes:
        next_s: when the steps end that run; infinite while none do.
    """

    def __init__(self, times: DecodeTimes, kv_cache_manager: KVCacheManager) -> None:
        self.next_s = math.inf
        self._times = times
        self._kv_cache_manager = kv_cache_manager
        self._blocks = AnswerBlocks(kv_cache_manager.block_tokens)
        self._heap: list[tuple[int, RequestId, Request]] = []
        self._joining: dict[RequestId, Request] = {}
        self._left: set[RequestId] = set()
        self._context_tokens = 0
        self._step = 0
        self._steps = 0
        self._is_alone = False
        self._reserved = 0
        self._series = StepSeries(0.0, times.fixed_s, 0.0)

    def __len__(self) -> int:
        """How many answers the steps compute."""
        return len(self._heap)

    def __contains__(self, request: Request) -> bool:
        """Whether an answer was added and has neither ended nor been given up."""
        return request.end_step >= 0 or request.request_id in self._joining

    @property
    def tokens_s(self) -> float:
        """Time that a token for each answer adds to a step."""
        times = self._times
        return times.s_per_sequence * len(self._heap) + times.s_per_context_token * self._context_tokens

    @property
    def step_s(self) -> float:
        """How long a step takes that computes answers alone."""
        return self._times.fixed_s + self.tokens_s

    @property
    def context_tokens(self) -> int:
        """Tokens of the answers' contexts together, when the steps began that run."""
        return self._context_tokens

    def stats(self) -> StepStats | None:
        """Return the mean of the steps that end at :attr:`next_s`, None if they compute more than answers."""
        if not self._is_alone:
            return None
        answers, steps = len(self._heap), self._steps
        context = self._context_tokens + answers * (steps - 1) / 2
        seconds = (self._series.end_s(steps) - self._series.started_s) / steps
        return StepStats(seconds, answers=answers, context_tokens=context, steps=steps)

    def reserve_step(self) -> bool:
        """Take the blocks of the next step, before anything else does; return whether there were enough."""
        needed = self._blocks.needed(self._step, 1)
        if needed > self._kv_cache_manager.free_blocks:
            return False
        self._take(needed)
        self._reserved = needed
        return True

    def add(self, request: Request, now_s: float) -> None:
        """Take in an answer whose last token came with its prefill; it joins at the end of the step that runs."""
        if self.next_s == math.inf:
            self._push(request)
        else:
            self.cut(now_s)
            self._joining[request.request_id] = request

    def remove(self, request: Request, now_s: float) -> None:
        """Give an answer up; the step that runs computes it to its end."""
        if self._joining.pop(request.request_id, None) is None:
            self._left.add(request.request_id)
            self.cut(now_s)
            self._leave(request)
            request.end_step = -1

    def preempt(self, request: Request) -> None:
        """Give an answer up to be computed again later; no step runs."""
        request.num_output_tokens = self._tokens_before(request)
        self._context_tokens -= request.num_tokens
        self._heap = [entry for entry in self._heap if entry[2] is not request]
        heapq.heapify(self._heap)
        self._leave(request)
        request.end_step = -1

    def preempt_all(self, now_s: float) -> None:
        """Give all up to be computed again later; what the step that runs computes of them is lost."""
        stay = [request for _, number, request in self._heap if number not in self._left]
        for request in stay:
            request.num_output_tokens = self.num_output_tokens(request, now_s)
        self.cut(now_s)
        for request in stay:
            self._leave(request)
            request.end_step = -1
        self._heap.clear()
        self._joining.clear()
        self._left.clear()
        self._blocks.clear()
        self._context_tokens = 0

    def begin(self, now_s: float) -> None:
        """Begin as many steps as there are until the first answer ends or blocks run out."""
        limit = self._heap[0][0] - self._step
        free = self._kv_cache_manager.free_blocks + self._reserved
        self._steps = self._blocks.most_steps(self._step, free, limit)
        self._take(self._blocks.needed(self._step, self._steps) - self._reserved)
        self._is_alone = True
        self._series = StepSeries(now_s, self.step_s, self._times.s_per_context_token * len(self._heap))
        self.next_s = self._series.end_s(self._steps)

    def begin_step(self, end_s: float) -> None:
        """Begin one step that computes more than answers and ends at ``end_s``."""
        self._steps = 1
        self._is_alone = False
        self.next_s = end_s

    def cut(self, now_s: float) -> None:
        """Have the steps end with the one that runs."""
        if self._steps > 1:
            steps, self._steps = self._steps, min(self._series.begun(now_s), self._steps)
            self._take(self._blocks.needed(self._step, self._steps) - self._blocks.needed(self._step, steps))
            self.next_s = self._series.end_s(self._steps)

    def end(self) -> list[Request]:
        """End the steps at :attr:`next_s`; return the requests whose last token came, in the order of their ids."""
        self._step += self._steps
        self._context_tokens += self._steps * len(self._heap)
        self._steps = 0
        self.next_s = math.inf
        if self._left:
            self._drop_left()
        ended: list[Request] = []
        while self._heap and self._heap[0][0] <= self._step:
            request = heapq.heappop(self._heap)[2]
            self._context_tokens -= request.num_prompt_tokens + request.max_tokens
            self._leave(request)
            ended.append(request)
        for request in self._joining.values():
            self._push(request)
        self._joining.clear()
        return ended

    def num_output_tokens(self, request: Request, now_s: float) -> int:
        """Return how many tokens a request has that was added."""
        if request.end_step < 0:
            return request.num_output_tokens
        return self._tokens_before(request) + self._steps_ended(now_s)

    def token_s(self, request: Request, tokens: int) -> float:
        """Return when a request that was added will have so many tokens, or the first moment at which it may have."""
        joins = request.end_step < 0
        steps = tokens - (request.num_output_tokens if joins else self._tokens_before(request))
        beyond = steps if joins else steps - self._steps
        if beyond > 0:
            return self.next_s + beyond * self._times.fixed_s
        if self._steps <= 1:
            return self.next_s
        return self._series.end_s(max(steps, 0))

    def _push(self, request: Request) -> None:
        request.end_step = self._step + request.max_tokens - request.num_output_tokens
        self._context_tokens += request.num_tokens
        self._blocks.add(request.num_tokens - 1, self._step)
        heapq.heappush(self._heap, (request.end_step, request.request_id, request))

    def _take(self, blocks: int) -> None:
        if blocks:
            self._kv_cache_manager.grow(blocks, self._heap[0][2])

    def _leave(self, request: Request) -> None:
        """Count an answer's blocks apart from the others', up to the end of the steps that run."""
        step = self._step + self._steps
        tokens = request.num_prompt_tokens + request.max_tokens - 1 - (request.end_step - step)
        self._blocks.remove(tokens, step)
        self._kv_cache_manager.settle(request, tokens)

    def _drop_left(self) -> None:
        for end_step, number, request in self._heap:
            if number in self._left:
                tokens = request.max_tokens - (end_step - self._step)
                self._context_tokens -= request.num_prompt_tokens + tokens
        self._heap = [entry for entry in self._heap if entry[1] not in self._left]
        heapq.heapify(self._heap)
        self._left.clear()

    def _tokens_before(self, request: Request) -> int:
        """Return how many tokens a request had when the steps began that run."""
        return request.max_tokens - (request.end_step - self._step)

    def _steps_ended(self, now_s: float) -> int:
        if self._steps <= 1:
            return int(self._steps == 1 and now_s >= self.next_s)
        return min(self._series.ended(now_s), self._steps)
