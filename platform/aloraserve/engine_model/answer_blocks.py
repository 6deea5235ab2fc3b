"""How many blocks the next steps of the running answers take, without a look at each answer.

Each step adds a token to each answer, so an answer takes a block every ``block_tokens`` steps: which steps these are
depends on its length and on the step at which it joined, and never changes while it runs. Counting answers by that is
all that is needed.
"""

from __future__ import annotations


class AnswerBlocks:
    """See the module's docstring.

    Args:
        block_tokens: tokens per block.
    """

    def __init__(self, block_tokens: int) -> None:
        self._width = block_tokens
        self._answers = 0
        self._by_offset = [0] * block_tokens

    def add(self, tokens: int, step: int) -> None:
        """Count an answer whose request has ``tokens`` in the cache before step ``step``."""
        self._answers += 1
        self._by_offset[(tokens - step) % self._width] += 1

    def remove(self, tokens: int, step: int) -> None:
        """Count it no longer; ``tokens`` are those before ``step``, whichever that is."""
        self._answers -= 1
        self._by_offset[(tokens - step) % self._width] -= 1

    def clear(self) -> None:
        """Count no answer."""
        self._answers = 0
        self._by_offset = [0] * self._width

    def needed(self, step: int, steps: int) -> int:
        """Return how many blocks so many steps take, from ``step`` on."""
        whole, rest = divmod(steps, self._width)
        return self._answers * whole + sum(self._by_offset[-at % self._width] for at in range(step, step + rest))

    def most_steps(self, step: int, blocks: int, limit: int) -> int:
        """Return for how many steps from ``step`` on so many blocks are enough, at most ``limit``."""
        if self.needed(step, limit) <= blocks:
            return limit
        low, high = 0, limit
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.needed(step, middle) <= blocks else (low, middle)
        return low
