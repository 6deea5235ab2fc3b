"""Metrics endpoints in Redis, beside the fleet's directory.

The hash ``{aloraserve:<namespace>}:processes`` has one field per process: JSON of its role and name, with
``"<expiry in ms> <JSON of the endpoint>"``. It expires with its last entry.
"""

from __future__ import annotations

import json
from typing import Self

from aloraserve.redis.keys import fleet_prefix, milliseconds
from aloraserve.redis.script_client import ScriptClient
from aloraserve.redis.scripts import Script, ScriptCall
from aloraserve.telemetry.endpoints import ENDPOINT_TTL_S, MAX_ENDPOINTS, MetricsEndpoint, check_endpoint

MAX_CALLS = 2
_REGISTER = Script.read(__package__, "register_endpoint")
_ENDPOINTS = Script.read(__package__, "endpoints")


class RedisEndpoints:
    """See :class:`~aloraserve.telemetry.endpoints.EndpointRegistry`.

    Args:
        client: closed by :meth:`close`.
        namespace: of the fleet.
        max_endpoints: the most that are listed.

    Raises:
        ValueError: the namespace is empty or has a brace.
    """

    def __init__(self, client: ScriptClient, *, namespace: str, max_endpoints: int = MAX_ENDPOINTS) -> None:
        self._keys = (f"{fleet_prefix(namespace)}processes",)
        self._max_endpoints = max_endpoints
        self._scripts = client

    @classmethod
    def from_url(cls, url: str, *, namespace: str, timeout_s: float = 1.0, max_endpoints: int = MAX_ENDPOINTS) -> Self:
        """Return a registry at ``url``; connects when first used.

        Raises:
            ValueError: the URL or the namespace is not one of those accepted.
        """
        part = "list of metrics endpoints"
        client = ScriptClient.from_url(url, timeout_s=timeout_s, max_calls=MAX_CALLS, part=part)
        return cls(client, namespace=namespace, max_endpoints=max_endpoints)

    async def register_endpoint(self, endpoint: MetricsEndpoint, *, ttl_s: float = ENDPOINT_TTL_S) -> None:
        check_endpoint(endpoint)
        name, content = json.dumps(endpoint[:2]), json.dumps(endpoint)
        arguments = (name, content, milliseconds(ttl_s), self._max_endpoints)
        await self._scripts.run(ScriptCall(_REGISTER, self._keys, arguments))

    async def endpoints(self) -> list[MetricsEndpoint]:
        records = await self._scripts.run(ScriptCall(_ENDPOINTS, self._keys))
        try:
            return sorted(MetricsEndpoint(*json.loads(record)) for record in records)
        except (ValueError, TypeError) as error:
            raise self._scripts.unavailable("has a record that cannot be read") from error

    async def close(self) -> None:
        await self._scripts.close()
