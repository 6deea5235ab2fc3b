"""The ghost against a plain model of an LRU cache, and its bound."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from aloraserve.savings.ghost import Ghost

CAPACITY = 8
# Chains of up to ten blocks that share prefixes: a block's key is the path to it.
CHAINS = st.lists(st.integers(0, 1), max_size=10).map(
    lambda path: [bytes(path[: length + 1]) for length in range(len(path))]
)
STEPS = st.lists(st.tuples(st.sampled_from(["begin", "end", "touch", "clear"]), st.integers(0, 3), CHAINS), max_size=40)


class Plain:
    """Keys from the one used longest ago to the one used last, and which calls use them."""

    def __init__(self) -> None:
        self.order: list[bytes] = []
        self.running: dict[str, list[bytes]] = {}

    @property
    def used(self) -> set[bytes]:
        return {key for chain in self.running.values() for key in chain}

    def begin(self, name: str, chain: list[bytes]) -> bool:
        if len(self.used | set(chain)) > CAPACITY:
            return False
        self.running[name] = chain
        self.order += [key for key in chain if key not in self.order]
        while len(self.order) > CAPACITY:
            self.order.remove(next(key for key in self.order if key not in self.used))
        return True

    def end(self, name: str) -> None:
        chain = self.running.pop(name)
        for key in reversed(chain):
            if key not in self.used:
                self.order.remove(key)
                self.order.append(key)

    def clear(self) -> None:
        self.order = [key for key in self.order if key in self.used]


@given(STEPS)
def test_it_holds_what_a_plain_lru_of_its_size_holds(steps: list[tuple[str, int, list[bytes]]]) -> None:
    ghost, plain = Ghost(CAPACITY), Plain()
    for step, number, chain in steps:
        name = f"r{number}"
        if step == "begin" and name not in plain.running:
            assert ghost.begin(name, chain) == plain.begin(name, chain)
        elif step == "end" and name in plain.running:
            ghost.end(name)
            plain.end(name)
        elif step == "touch":
            ghost.touch("t", chain)
            if plain.begin("t", chain):
                plain.end("t")
        elif step == "clear":
            ghost.clear()
            plain.clear()
        held = next((at for at, key in enumerate(chain) if key not in plain.order), len(chain))
        assert ghost.overlap(chain) == held
        assert len(ghost) == len(plain.order) <= CAPACITY


def test_without_a_known_capacity_it_still_has_one() -> None:
    ghost = Ghost(0)
    ghost.touch("r", [b"a"])
    assert len(ghost) == 1
