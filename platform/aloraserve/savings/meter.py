"""One replica's savings: from its calls' prompts, cached tokens and prefill model to what each call saved."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from aloraserve.blocks import BlockKey, KeySpace, activation_point
from aloraserve.engine_model.step_learner import ModelQuality, StepLearner
from aloraserve.engine_model.step_model import StepModel
from aloraserve.savings.base import CallSavings
from aloraserve.savings.ghost import Ghost
from aloraserve.savings.sources import FirstStored

ENOUGH_SAMPLES = 16


@dataclass(slots=True)
class _Call:
    token_ids: Sequence[int]
    keys: Sequence[BlockKey]
    adapter: str | None
    cache_salt: str | None
    invocation_ids: Sequence[int]
    public_blocks: int = 0
    reads_cache: bool = True
    activation: int = 0
    saved_queue_s: float = 0.0
    salted: list[BlockKey] | None = None
    has_begun: bool = False
    answers: dict[int, list[int]] = field(default_factory=dict)


class SavingsMeter:
    """Follows a replica's calls. For one event loop; everything remembered is bounded by the engine's KV cache and by
    the calls that run.

    Args:
        keyspace: where keys come from.
        adapter_salts: an adapter version's salt by its name, None if unknown
            (:func:`~aloraserve.blocks.keys.version_salt`).
        capacity_blocks: of the engine's KV cache; 0 if unknown, and then so are savings.
        learner: knows how long the engine's steps take.
        step_tokens: tokens that a step computes at most, 0 if unknown.
    """

    def __init__(
        self,
        keyspace: KeySpace,
        adapter_salts: Callable[[str], bytes | None],
        capacity_blocks: int,
        learner: StepLearner,
        *,
        step_tokens: int = 0,
    ) -> None:
        self._keyspace = keyspace
        self._adapter_salts = adapter_salts
        self._is_capacity_known = capacity_blocks > 0
        self._learner = learner
        self._step_tokens = step_tokens
        self._ghost = Ghost(capacity_blocks)
        self._stored = FirstStored(capacity_blocks)
        self._calls: dict[str, _Call] = {}
        self._waiting: dict[str, _Call] = {}

    def accept(
        self,
        request_id: str,
        token_ids: Sequence[int],
        keys: Sequence[BlockKey],
        adapter: str | None,
        cache_salt: str | None,
        invocation_ids: Sequence[int] = (),
        public_blocks: int = 0,
        *,
        reads_cache: bool = True,
    ) -> None:
        """Note a call.

        Args:
            request_id: of the call.
            token_ids: its prompt.
            keys: the prompt's block keys, base before the activation point.
            adapter: name of its adapter version, None for the base model.
            cache_salt: of the tenant.
            invocation_ids: an aLoRA's; empty of a plain LoRA, which changes the prompt from its first token on.
            public_blocks: how many of the first blocks have no salt.
            reads_cache: whether it uses cached blocks; no engine would read them for it otherwise.
        """
        call = _Call(token_ids, keys, adapter, cache_salt, invocation_ids, public_blocks, reads_cache)
        self._calls[request_id] = self._waiting[request_id] = call

    def prepare(self, request_id: str) -> None:
        """Work out the call's adapter-keyed chain, while its engine computes; some tenths of a millisecond."""
        call = self._calls.get(request_id)
        if call is not None and call.salted is None:
            call.salted = self._salted(call)
            call.activation = _activation(call)

    def first_token(self, request_id: str, cached_tokens: int) -> CallSavings | None:
        """Return what a call saved whose prompt was just computed.

        None if that cannot be known: of a call or an adapter that is not known, and before the replica's speed is.

        Args:
            request_id: of the call.
            cached_tokens: prompt tokens that the engine did not compute.
        """
        call = self._waiting.get(request_id)
        if call is None:
            return None
        self.prepare(request_id)
        behind = self._leave(request_id)
        salted, width, prompt_tokens = call.salted, self._keyspace.block_tokens, len(call.token_ids)
        if salted is None:
            return None
        # An engine computes the last token at least, and whole blocks are shared.
        overlap = self._ghost.overlap(salted) if call.reads_cache else 0
        ghost_tokens = min(overlap, (prompt_tokens - 1) // width) * width
        sources = self._stored.of(call.keys, call.adapter, width, cached_tokens)
        self._stored.computed(call.keys[cached_tokens // width :], call.adapter)
        call.has_begun = self._ghost.begin(request_id, salted)
        model = self._learner.model()
        if model is None or not self._is_capacity_known:
            return None
        actual_s = self._prefill_s(model, call, cached_tokens, call.activation)
        own_s = self._prefill_s(model, call, ghost_tokens, 0) - actual_s
        for later in behind:
            later.saved_queue_s += own_s
        sure = confidence(self._learner.quality, prompt_tokens)
        saved_s, saved_tokens = own_s + call.saved_queue_s, cached_tokens - ghost_tokens
        return CallSavings(saved_s, saved_tokens, ghost_tokens, sure, sources, call.saved_queue_s)

    def more_tokens(self, request_id: str, choice: int, token_ids: Sequence[int]) -> None:
        """Note generated tokens of one choice, the first ones included."""
        call = self._calls.get(request_id)
        if call is not None:
            call.answers.setdefault(choice, []).extend(token_ids)

    def end(self, request_id: str) -> None:
        """Note that a call ended, however it did; its answer is cached as its prompt is."""
        call = self._calls.pop(request_id, None)
        self._waiting.pop(request_id, None)
        if call is None or not call.has_begun:
            return
        self._ghost.end(request_id)
        for answer in call.answers.values():
            self._answered(request_id, call, answer)

    def emptied(self) -> None:
        """Note that the engine's cache was emptied: an adapter-keyed one would have been as well."""
        self._ghost.clear()

    def _leave(self, request_id: str) -> list[_Call]:
        """Have a call wait no more; return those that came after it and wait still.

        Of its prefill they have waited for, or will, what was left when they came. The counterfactual's would have had
        as much longer to go as it takes longer. What it would have delayed after this one's end is not counted.
        """
        found = list(self._waiting)
        behind = [self._waiting[later] for later in found[found.index(request_id) + 1 :]]
        del self._waiting[request_id]
        return behind

    def _prefill_s(self, model: StepModel, call: _Call, cached_tokens: int, activation: int) -> float:
        """Return how long a call's prompt takes after its cached tokens if its adapter applies from a token on."""
        end = len(call.token_ids)
        adapted = 0 if call.adapter is None else max(end - max(cached_tokens, activation), 0)
        return model.prefill_s(cached_tokens, end, adapter_tokens=adapted, step_tokens=self._step_tokens)

    def _answered(self, request_id: str, call: _Call, answer: Sequence[int]) -> None:
        # The last token's KV would have come with the next one.
        prompt, whole = call.salted or [], [*call.token_ids, *answer[:-1]]
        keys = self._extended(call, prompt, whole)
        if keys is None or len(keys) == len(prompt):
            return
        self._ghost.touch(request_id, keys)
        # An aLoRA's answer has other keys in the engine, and is not part of another prompt.
        if prompt == list(call.keys):
            self._stored.computed(keys[len(prompt) :], call.adapter)

    def _salted(self, call: _Call) -> list[BlockKey] | None:
        """Return the prompt's keys in an engine whose cache is the adapter's from the first token on."""
        return list(call.keys) if call.adapter is None else self._extended(call, [], call.token_ids)

    def _extended(self, call: _Call, known: list[BlockKey], token_ids: Sequence[int]) -> list[BlockKey] | None:
        """Return such keys of ``token_ids``, of whose first blocks they are known; None if the adapter is not."""
        salt = b"" if call.adapter is None else self._adapter_salts(call.adapter)
        if salt is None:
            return None
        # An adapter-keyed cache has no public blocks.
        public = 0 if call.adapter else call.public_blocks
        parent = self._keyspace.origin(call.cache_salt, public, known)
        return [*known, *self._keyspace.extend(parent, token_ids[len(known) * self._keyspace.block_tokens :], salt)]


def _activation(call: _Call) -> int:
    """Return from which token on a call's adapter changes its prompt; its length, if it never does."""
    if not call.invocation_ids:
        return 0
    found = activation_point(call.token_ids, call.invocation_ids)
    return len(call.token_ids) if found is None else found


def confidence(quality: ModelQuality, tokens: int) -> float:
    """Return how far times of a prompt of ``tokens`` may be trusted, 0 to 1.

    The product of: steps with prompt tokens seen by :data:`ENOUGH_SAMPLES`, 1 less twice the model's median relative
    error on them, and the longest prompt of which the end was computed by ``tokens``; each of them 0 to 1.
    """
    seen = min(1.0, quality.samples / ENOUGH_SAMPLES)
    accuracy = max(0.0, 1.0 - 2 * quality.median_error)
    reach = min(1.0, quality.longest_tokens / max(tokens, 1))
    return seen * accuracy * reach
