"""The scaling board in Redis, beside the fleet's directory.

Under ``{aloraserve:<namespace>}:scaling:`` lie ``<application>:demands``, a hash with a field per gateway: its id, with
``"<expiry in ms> <JSON of the demand>"``; ``<application>:latest``, JSON of the last decision; and ``changes``, a
stream of those of all applications that changed something.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable
from dataclasses import asdict
from typing import Self, TypeVar

from pydantic import TypeAdapter

from aloraserve.redis.keys import fleet_prefix, milliseconds
from aloraserve.redis.script_client import ScriptClient
from aloraserve.redis.scripts import Script, ScriptCall
from aloraserve.scaling.base import MAX_GATEWAYS, Demand
from aloraserve.scaling.board import (
    DEMAND_TTL_S,
    LATEST_KEPT_S,
    MAX_RECORDS,
    RECORD_KEPT_S,
    ScalingHistory,
    ScalingRecord,
)

MAX_CALLS = 4

_PUBLISH = Script.read(__package__, "publish_demand")
_DEMANDS = Script.read(__package__, "demands")
_RECORD = Script.read(__package__, "record")
_HISTORY = Script.read(__package__, "history")
_DEMAND = TypeAdapter(Demand)
_SCALING_RECORD = TypeAdapter(ScalingRecord)
ItemT = TypeVar("ItemT")


class RedisBoard:
    """See :class:`~aloraserve.scaling.board.ScalingBoard`.

    Args:
        client: closed by :meth:`close`.
        namespace: of the fleet.
        application: name of the one whose gateways and autoscaler meet here.

    Raises:
        ValueError: the namespace is empty or has a brace.
    """

    def __init__(self, client: ScriptClient, *, namespace: str, application: str) -> None:
        prefix = f"{fleet_prefix(namespace)}scaling:"
        self._demands = (f"{prefix}{application}:demands",)
        self._records = (f"{prefix}{application}:latest", f"{prefix}changes")
        self._scripts = client

    @classmethod
    def from_url(cls, url: str, *, namespace: str, application: str, timeout_s: float = 1.0) -> Self:
        """Return a board at ``url``; connects when first used.

        Raises:
            ValueError: the URL or the namespace is not one of those accepted.
        """
        client = ScriptClient.from_url(url, timeout_s=timeout_s, max_calls=MAX_CALLS, part="scaling board")
        return cls(client, namespace=namespace, application=application)

    async def publish(self, demand: Demand, *, ttl_s: float = DEMAND_TTL_S) -> None:
        content = _json(demand)
        arguments = (demand.gateway, content, milliseconds(ttl_s), MAX_GATEWAYS)
        await self._scripts.run(ScriptCall(_PUBLISH, self._demands, arguments))

    async def demands(self) -> list[Demand]:
        found = await self._scripts.run(ScriptCall(_DEMANDS, self._demands))
        return sorted(_readable(_DEMAND, found), key=lambda demand: demand.gateway)

    async def record(self, record: ScalingRecord, *, is_change: bool) -> None:
        arguments = (
            _json(record),
            milliseconds(LATEST_KEPT_S),
            int(is_change),
            milliseconds(RECORD_KEPT_S),
            MAX_RECORDS,
        )
        await self._scripts.run(ScriptCall(_RECORD, self._records, arguments))

    async def history(self) -> ScalingHistory:
        latest, changes = await self._scripts.run(ScriptCall(_HISTORY, self._records))
        return ScalingHistory(
            next(iter(_readable(_SCALING_RECORD, [latest])), None),
            tuple(_readable(_SCALING_RECORD, reversed(changes))),
        )

    async def close(self) -> None:
        await self._scripts.close()


def _json(item: Demand | ScalingRecord) -> str:
    """Return JSON, in which a time without an end is ``Infinity``: pydantic would write null."""
    return json.dumps(asdict(item), separators=(",", ":"))


def _readable(reader: TypeAdapter[ItemT], records: Iterable[bytes]) -> list[ItemT]:
    """Return what can be read of records that another version may have written."""
    found = []
    for record in records:
        with contextlib.suppress(ValueError):
            found.append(reader.validate_json(record))
    return found
