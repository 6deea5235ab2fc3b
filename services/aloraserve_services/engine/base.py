"""The contract of an engine: what a replica needs of one, whatever computes the tokens.

Invariants, for every engine:

- Token ids in, chunks out. What a call generates depends on the call alone, not on what was cached or what else runs.
- Closing the iterator of :meth:`Engine.generate` ends the request at once: its blocks are free, its slot is too.
- A prompt reuses exactly the blocks whose keys (:class:`~aloraserve.blocks.KeySpace`) are equal: base before the
  adapter's activation point, the adapter's from it on, one tenant's alone.
- Each change of what it holds is an event, in order, in batches numbered without a gap; events of one step are there
  soon after the step.
- Each step that computed something is reported soon after it ended, once, with its own time: how busy this process or
  its event loop is does not change what is reported.
- A call's adapter version was added before and is removed after it; no more than ``adapter_capacity`` are there at any
  time. So the engine never has to choose one that leaves, and never loads one amid a step. At most ``adapter_slots``
  distinct ones run at once. Two versions of one adapter are two adapters.

All methods are called on one event loop.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Literal, NamedTuple, Protocol

from aloraserve.adapters import AdapterVersion
from aloraserve.blocks import EventBatch
from aloraserve.engine_model.step_stats import StepStats
from aloraserve.serving.engine_messages import EngineCall, EngineReply


class EngineEndedError(Exception):
    """Raised when a call's engine was ended under it, in place of an engine's own error."""


Level = Literal["slot", "host"]
"""A version in a slot can run in the next step; one in the host's memory is copied into a slot first."""


class Engine(Protocol):
    """See the module's docstring."""

    @property
    def kv_usage(self) -> float:
        """Share of KV blocks that running requests use, from 0 to 1."""
        ...

    @property
    def kv_tokens(self) -> int:
        """Tokens that the KV cache has room for, 0 if unknown."""
        ...

    @property
    def adapter_slots(self) -> int:
        """Distinct adapters that may run at once, 0 without adapters."""
        ...

    @property
    def adapter_capacity(self) -> int:
        """Versions that may be loaded at once; at least one, and at least ``adapter_slots``."""
        ...

    @property
    def step_tokens(self) -> int:
        """Tokens that one step computes at most."""
        ...

    @property
    def is_dead(self) -> bool:
        """Whether the engine has ended or failed and will answer nothing more."""
        ...

    def generate(self, call: EngineCall, priority: int = 0) -> AsyncGenerator[EngineReply]:
        """Yield what the engine generates, as it comes; a call that it refuses yields one refusal.

        Args:
            call: to answer.
            priority: of the calls that wait, the lowest begins first, and the highest gives its blocks up first where
                they run out; of equal ones the first that came is first. An engine that takes calls in their order
                ignores it.

        Raises:
            Exception: the engine's own, if it dies under the call.
        """
        ...

    def observe_steps(self, observe: Callable[[StepStats], None]) -> None:
        """Have each step reported from now on."""
        ...

    async def add_adapter(self, version: AdapterVersion) -> None:
        """Load a version into the host's memory, so that it can be called; others may run meanwhile.

        Args:
            version: fewer than ``adapter_capacity`` others are loaded.

        Raises:
            InvalidAdapterError: the engine cannot load it; nothing has changed.
        """
        ...

    async def remove_adapter(self, version: AdapterVersion) -> None:
        """Unload a version that no call runs with; calls for it are an error from now on."""
        ...

    async def levels(self) -> dict[str, Level]:
        """Return where each version is that is loaded, by its key: in a slot, or in the host's memory alone."""
        ...

    async def reset_prefix_cache(self, *, preempt: bool = False) -> bool:
        """Drop every cached block; return whether that worked.

        Args:
            preempt: also while requests run: what they have is computed again, and their answers are the same. Without
                it nothing is dropped while any runs.
        """
        ...

    async def check_health(self) -> None:
        """Raise if the engine is dead."""
        ...

    def kill(self) -> None:
        """End an engine that may hang: its processes at once, without a goodbye.

        Its calls end with an error that says so, and it is dead.
        """
        ...

    def shutdown(self) -> None:
        """Stop the engine and its processes. Further calls are undefined."""
        ...


class EventSource(Protocol):
    """Where an engine's KV events come from."""

    def batches(self) -> AsyncIterator[EventBatch]:
        """Yield batches in order, numbered from 0.

        Doubled and late ones are passed over, and a gap is first closed by replay; a gap that stays in the numbers
        means lost events.
        """
        ...

    def close(self) -> None:
        """Stop waiting for events and free what that needs."""
        ...


class EngineParts(NamedTuple):
    """A started engine and its events."""

    engine: Engine
    events: EventSource
