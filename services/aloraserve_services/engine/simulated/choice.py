"""One answer to a call of a simulated engine: its request, its blocks and its words."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from aloraserve.blocks import BlockKey, BlocksStored
from aloraserve.engine_model.outputs import BlocksChanged
from aloraserve.engine_model.request import Request, RequestId
from aloraserve.serving.engine_messages import EngineCall, EngineChunk
from aloraserve_services.engine.simulated.answer_words import Answer
from aloraserve_services.engine.simulated.answer_writer import AnswerWriter
from aloraserve_services.engine.simulated.block_chain import BlockChain


class Choice:
    """See the module's docstring.

    Args:
        index: of the choice.
        request_id: of its request.
        call: that it answers.
        prompt: the prompt's blocks.
        answer: its words.
        arrival_s: of the call, on the model's clock.
        begun: to set once a choice of the call has its first token.
        priority: of the call.

    Attributes:
        request: for the scheduler.
    """

    def __init__(
        self,
        index: int,
        request_id: RequestId,
        call: EngineCall,
        prompt: BlockChain,
        answer: Answer,
        arrival_s: float,
        begun: asyncio.Event,
        priority: int = 0,
    ) -> None:
        self.call = call
        self.begun = begun
        self._writer = AnswerWriter(index, answer, call.sampling)
        self._answer = answer
        self._chain = prompt.copy()
        self._is_chain_whole = False
        self.request = Request(
            request_id=request_id,
            arrival_s=arrival_s,
            prompt_keys=prompt.keys,
            num_prompt_tokens=len(call.token_ids),
            max_tokens=self._writer.length,
            adapter=None if call.adapter is None else call.adapter.engine_name,
            priority=priority,
            output_keys=self._output_keys,
        )

    @property
    def is_written(self) -> bool:
        """Whether its last chunk was made."""
        return self._writer.is_finished

    @property
    def prefill_s(self) -> float:
        """How long its first token took from when its prefill began; the first choice is the first to have one."""
        return self.request.first_token_s - self.request.scheduled_s

    def next_tokens(self, stream_tokens: int) -> int:
        """Return with how many tokens its next chunk leaves: the first alone, then so many more at once.

        Args:
            stream_tokens: that leave together; a call may ask for more.
        """
        written, stream_tokens = len(self._writer.token_ids), max(stream_tokens, self.call.sampling.stream_interval)
        return min(written + stream_tokens, self._writer.length) if written else 1

    def write(self, tokens: int) -> EngineChunk | None:
        """Return a chunk with the words up to a number of tokens, None if there are none to write."""
        new = tokens - len(self._writer.token_ids)
        if new <= 0:
            return None
        self._writer.cached_tokens = self.request.num_cached_tokens
        return next(self._writer.write(new), None)

    def stored(self, changed: BlocksChanged) -> list[BlocksStored]:
        """Return the events of its blocks that came to be cached."""
        return self._chain.stored(changed.first, len(changed.chain))

    def _output_keys(self) -> Sequence[BlockKey]:
        """Return the keys of the answer's blocks; its last token's own KV is never computed."""
        if not self._is_chain_whole:
            self._is_chain_whole = True
            self._chain.grow([self._answer.word(at).token for at in range(self._writer.length - 1)])
        return self._chain.keys[len(self.request.prompt_keys) :]
