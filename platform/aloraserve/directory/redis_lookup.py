"""A prompt looked up in the index of holdings: in one round trip, or in two if it is long."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aloraserve.blocks import BlockKey
from aloraserve.directory import redis_scripts as scripts
from aloraserve.directory.base import RUN_BLOCKS, anchor
from aloraserve.directory.long_lookup import ONE_TRIP_BLOCKS, Ends, joined, run_marks, windows
from aloraserve.directory.redis_keys import ShardKeys
from aloraserve.directory.strays import Strays
from aloraserve.redis.script_client import ScriptClient
from aloraserve.redis.scripts import ScriptCall

_WIDTH = 3


class PromptLookup:
    """Says how far each holder has a prompt.

    Args:
        client: runs the scripts.
        strays: is shown the holders that were found, and where.
    """

    def __init__(self, client: ScriptClient, strays: Strays) -> None:
        self._scripts = client
        self._strays = strays

    async def held(self, keys: Sequence[BlockKey], shard: ShardKeys) -> dict[bytes, Ends]:
        """Return how many of a prompt's leading blocks each holder has in the fast tier, and in any.

        Args:
            keys: of the prompt, at least one.
            shard: where its chain is.
        """
        is_long = len(keys) > ONE_TRIP_BLOCKS
        anchors = [keys[0], *keys[RUN_BLOCKS - 1 : -1 : RUN_BLOCKS]]
        script, blob = (scripts.LOOKUP_RUNS, run_marks(keys)) if is_long else (scripts.LOOKUP, keys)
        reply = await self._scripts.run(ScriptCall(script, shard.nodes(anchors), (b"".join(blob),)))
        found = _ends(reply[0])
        if is_long:
            found = await self._looked_into(keys, shard, found)
        self._strays.note(shard, anchors, found, zip(reply[1][::2], reply[1][1::2], strict=True))
        return found

    async def _looked_into(
        self, keys: Sequence[BlockKey], shard: ShardKeys, ends_by_run: dict[bytes, Ends]
    ) -> dict[bytes, Ends]:
        """Return how many leading blocks each holder has, given how many leading runs."""
        parts = windows(ends_by_run, len(keys))
        replies = await self._scripts.run_all(
            [
                ScriptCall(scripts.LOOKUP, shard.nodes([anchor(keys, part.start)]), (b"".join(keys[part]),))
                for part in parts.values()
            ]
        )
        inside = {run: _ends(rows) for run, (rows, _) in zip(parts, replies, strict=True)}
        return joined(ends_by_run, inside, len(keys))


def _ends(rows: Sequence[Any]) -> dict[bytes, Ends]:
    return {rows[at]: Ends(rows[at + 1], rows[at + 2]) for at in range(0, len(rows), _WIDTH)}
