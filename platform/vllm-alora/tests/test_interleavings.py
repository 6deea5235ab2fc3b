"""Random interleavings of calls, reloads, swaps and evictions on two engines that could share a store of blocks."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cores import Core, config_of, name_of, write_files

import vllm_alora
from vllm_alora.activation import find_activation
from vllm_alora.reloads import Reloads

INVOCATIONS: dict[str, list[int] | None] = {"certainty": [5, 6], "safety": [6, 7, 5], "style": None, "summary": None}
VERSIONS = ("v0", "v1", "v2")
STEPS = 2000


@dataclass
class Call:
    """A call under way, and the weights that all of its answer must come from; None once it has seen two."""

    core: Core
    adapter: str | None
    weights: str | None
    request: Any


@dataclass
class Interleaving:
    """Two engines with files of their own, and everything that may happen to them."""

    folder: Path
    chooser: random.Random
    arrived: list[str] = field(default_factory=list)
    numbers: Iterator[int] = field(default_factory=itertools.count)
    paths: dict[tuple[int, str], str] = field(default_factory=dict)
    versions: dict[tuple[int, str], str] = field(default_factory=dict)
    cores: list[Core] = field(default_factory=list)
    content: dict[bytes, str] = field(default_factory=dict)
    """What each block hash has ever stood for, in any engine."""
    calls: dict[str, Call] = field(default_factory=dict)
    seen: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("answered", "mixed", "preempted"), 0))

    def __post_init__(self) -> None:
        for _ in range(2):
            self.cores.append(Core(config_of(self.folder), reloads=Reloads(max_known=6)))
            for name in INVOCATIONS:
                self.write(len(self.cores) - 1, name, "v0")

    def write(self, engine: int, name: str, version: str, moved: int = 0) -> str:
        path = self.folder / f"engine{engine}" / f"{name}-{moved}"
        return str(write_files(path, f"{name}-{version}", alora_invocation_tokens=INVOCATIONS[name]))

    def lora(self, engine: int, name: str, path: str | None = None, **changes: Any) -> Any:
        from vllm.lora.request import LoRARequest

        number = 1 + list(INVOCATIONS).index(name)
        return LoRARequest(name, number, path or self.path(engine, name), **changes)

    def path(self, engine: int, name: str) -> str:
        return self.paths.get((engine, name), str(self.folder / f"engine{engine}" / f"{name}-0"))

    def call(self, engine: int) -> None:
        """Send a call over a shared conversation, or one that goes on from another call's answer so far."""
        name, core, number = self.chooser.choice([None, *INVOCATIONS]), self.cores[engine], next(self.numbers)
        prompt = self.prompt(name)
        if self.calls and self.chooser.random() < 0.5:
            other = self.chooser.choice(list(self.calls.values()))
            name, prompt = other.adapter, list(other.request.all_token_ids)
        lora = None if name is None else self.lora(engine, name)
        request = core.arrive(f"{engine}-{number}", prompt, lora, max_tokens=self.chooser.randrange(1, 16))
        self.calls[request.request_id] = Call(core, name, self.weights(engine, name), request)
        self.arrived.append(request.request_id)

    def prompt(self, name: str | None) -> list[int]:
        conversation = random.Random(self.chooser.randrange(3))
        prompt = [conversation.randrange(8, 20) for _ in range(24)][: self.chooser.randrange(1, 25)]
        tail = [self.chooser.randrange(5, 9) for _ in range(self.chooser.randrange(0, 6))]
        return [*prompt, *(INVOCATIONS.get(name or "") or ()), *tail]

    def admit(self) -> None:
        """Hand what has arrived to the schedulers."""
        for name in self.arrived:
            self.calls[name].core.admit(self.calls[name].request)
        self.arrived.clear()

    def weights(self, engine: int, name: str | None) -> str | None:
        return None if name is None else f"{name}-{self.versions.get((engine, name), 'v0')}"

    def reload(self, engine: int) -> None:
        """Load weights in place, at the same path or at another one."""
        name, version = self.chooser.choice(list(INVOCATIONS)), self.chooser.choice(VERSIONS)
        path = self.write(engine, name, version, moved=self.chooser.choice([0, 0, 1]))
        self.paths[engine, name] = path
        self.cores[engine].add_lora(self.lora(engine, name, path, load_inplace=True))
        self.note_weights(engine, name, version)

    def remove(self, engine: int) -> None:
        """Unload an adapter whose files have changed; requests under way load it again."""
        name, version = self.chooser.choice(list(INVOCATIONS)), self.chooser.choice(VERSIONS)
        here = self.path(engine, name)
        if any(call.request.lora_request.lora_path != here for call in self.running(engine, name)):
            return
        write_files(Path(here), f"{name}-{version}", alora_invocation_tokens=INVOCATIONS[name])
        self.cores[engine].remove_lora(self.lora(engine, name).lora_int_id)
        self.note_weights(engine, name, version)

    def running(self, engine: int, name: str) -> list[Call]:
        core = self.cores[engine]
        return [call for call in self.calls.values() if call.core is core and call.adapter == name]

    def note_weights(self, engine: int, name: str, version: str) -> None:
        self.versions[engine, name] = version
        for call in self.running(engine, name):
            if call.weights != self.weights(engine, name):
                begun = call.request.num_computed_tokens or call.request.num_output_tokens
                call.weights = None if begun else self.weights(engine, name)

    def step(self, engine: int) -> None:
        core = self.cores[engine]
        for request in core.step():
            call = self.calls.pop(request.request_id)
            self.seen["answered"] += 1
            self.seen["preempted"] += request.num_preemptions
            if call.adapter is not None and call.weights is None:
                self.seen["mixed"] += 1
            else:
                self.check_answer(call)
        for block_hash, kv in core.cached().items():
            assert self.content.setdefault(block_hash, kv) == kv, "one hash stands for two contents"

    def check_answer(self, call: Call) -> None:
        """Each token is the one that the adapter alone gives, whatever was cached, evicted or in the batch."""
        request = call.request
        tokens, prompt = list(request.all_token_ids), list(request.prompt_token_ids)
        invocation = INVOCATIONS.get(call.adapter or "")
        start = find_activation(prompt, invocation) if invocation else 0
        assert start is not None
        kv = "start"
        for position, token in enumerate(tokens[:-1]):
            kv = name_of(kv, token, call.weights if call.adapter and position >= start else None)
            if position >= len(prompt) - 1:
                assert tokens[position + 1] == int(kv, 16) % 8, f"{call.adapter} at {position} of {len(tokens)}"

    def run(self, steps: int) -> None:
        for _ in range(steps):
            engine = self.chooser.randrange(2)
            choice = self.chooser.random()
            if choice < 0.25 and len(self.running_on(engine)) < 8:
                self.call(engine)
            elif choice < 0.29:
                self.reload(engine)
            elif choice < 0.32:
                self.remove(engine)
            elif choice < 0.6:
                self.admit()
            else:
                self.step(engine)

    def running_on(self, engine: int) -> list[Call]:
        return [call for call in self.calls.values() if call.core is self.cores[engine]]


@pytest.fixture(scope="module", autouse=True)
def registered() -> None:
    """Load the plugin."""
    vllm_alora.register()


@pytest.mark.parametrize("seed", range(2))
def test_no_interleaving_files_kv_under_a_name_of_other_kv(tmp_path: Path, seed: int) -> None:
    """A block hash stands for one content, in both engines and for ever; each answer is that of its own weights."""
    interleaving = Interleaving(tmp_path, random.Random(seed))
    interleaving.run(STEPS)
    assert all(interleaving.seen[name] for name in ("answered", "mixed", "preempted")), interleaving.seen
