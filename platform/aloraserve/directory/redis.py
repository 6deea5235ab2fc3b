"""The directory in Redis >= 7 or Valkey: one Lua script a method, so one round trip and atomic.

Every key of a namespace shares one hash tag and expires by itself; nothing is found by scanning. The scripts,
and the schema that they keep, are in :mod:`aloraserve.directory.redis_scripts`.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Any, Self
from urllib.parse import parse_qsl, urlencode, urlsplit

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.commands.core import AsyncScript
from redis.exceptions import RedisError

from aloraserve.blocks import BlockKey
from aloraserve.directory import redis_scripts
from aloraserve.directory.base import (
    CLAIM_TTL_S,
    FORGET_S,
    LEASE_TTL_S,
    MAX_LOOKUP_BLOCKS,
    NODE_TTL_S,
    Candidate,
    ReplicaLoad,
    ReplicaState,
    check_apply,
)
from aloraserve.errors import DirectoryUnavailableError

_REPLY_WIDTH = 5


def redacted_url(url: str) -> str:
    """Return ``url`` without its password, for messages and logs."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "<unreadable Redis URL>"
    user, at, host = parts.netloc.rpartition("@")
    name, colon, _ = user.partition(":")
    query = [(key, "***" if key == "password" else value) for key, value in parse_qsl(parts.query)]
    netloc = f"{name}{':***' if colon else ''}{at}{host}"
    # Without slashes a mistyped URL has its password in the path, and nothing says where.
    if not parts.netloc and "@" in parts.path:
        return f"{parts.scheme}:***"
    options = f"?{urlencode(query, safe='*')}" if query else ""
    return f"{parts.scheme}://{netloc}{parts.path}{options}"


class RedisDirectory:
    """See :class:`~aloraserve.directory.base.Directory`.

    Args:
        client: decodes no responses and retries nothing; closed by :meth:`close`.
        namespace: what keeps fleets apart on one server; no braces.
        timeout_s: the longest that a call may take, waiting for a connection included.
        node_ttl_s: how long a block node lives after it was last stored.
        forget_s: how long a silent replica's holdings are kept.
        url: where the server is, for messages.

    Raises:
        ValueError: the namespace is empty or has a brace.
    """

    def __init__(
        self,
        client: Redis,
        *,
        namespace: str,
        timeout_s: float = 0.5,
        node_ttl_s: float = NODE_TTL_S,
        forget_s: float = FORGET_S,
        url: str = "redis",
    ) -> None:
        if not namespace or set(namespace) & set("{}"):
            raise ValueError(f"namespace is {namespace!r}; a non-empty string without braces is needed")
        self._client = client
        self._prefix = f"{{aloraserve:{namespace}}}:"
        self._timeout_s = timeout_s
        self._node_ttl_ms = _milliseconds(node_ttl_s)
        self._forget_ms = _milliseconds(forget_s)
        self._where = redacted_url(url)
        self._publish = client.register_script(redis_scripts.PUBLISH)
        self._retire = client.register_script(redis_scripts.RETIRE)
        self._apply = client.register_script(redis_scripts.APPLY)
        self._lookup = client.register_script(redis_scripts.LOOKUP)
        self._claim = client.register_script(redis_scripts.CLAIM)
        self._withdraw = client.register_script(redis_scripts.WITHDRAW)
        self._states = client.register_script(redis_scripts.STATES)
        self._epoch = client.register_script(redis_scripts.EPOCH)

    @classmethod
    def from_url(
        cls,
        url: str,
        *,
        namespace: str,
        timeout_s: float = 0.5,
        max_connections: int = 32,
        node_ttl_s: float = NODE_TTL_S,
        forget_s: float = FORGET_S,
    ) -> Self:
        """Return a directory at ``url`` (``redis://``, ``rediss://`` or ``unix://``); connects when first
        used.

        Callers beyond ``max_connections`` wait for a connection, within ``timeout_s``.

        Raises:
            ValueError: the URL's scheme or the namespace is not one of those above.
        """
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=max_connections,
            timeout=timeout_s,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            retry=Retry(NoBackoff(), 0),
        )
        client = Redis.from_pool(pool)
        return cls(
            client,
            namespace=namespace,
            timeout_s=timeout_s,
            node_ttl_s=node_ttl_s,
            forget_s=forget_s,
            url=url,
        )

    async def publish(self, state: ReplicaState, *, ttl_s: float = LEASE_TTL_S) -> None:
        await self._run(
            self._publish,
            state.replica,
            _milliseconds(ttl_s),
            state.incarnation,
            json.dumps(asdict(state), separators=(",", ":")),
            self._forget_ms,
        )

    async def retire(self, replica: str) -> None:
        await self._run(self._retire, replica)

    async def apply(
        self,
        replica: str,
        incarnation: str,
        *,
        stored: Sequence[BlockKey] = (),
        removed: Sequence[BlockKey] = (),
    ) -> None:
        check_apply(stored, removed)
        if not stored and not removed:
            return
        await self._run(
            self._apply,
            replica,
            incarnation,
            b"".join(stored),
            b"".join(removed),
            self._node_ttl_ms,
            self._forget_ms,
        )

    async def lookup(self, keys: Sequence[BlockKey]) -> list[Candidate]:
        reply = await self._run(self._lookup, b"".join(keys[:MAX_LOOKUP_BLOCKS]), self._forget_ms)
        rows = (reply[start : start + _REPLY_WIDTH] for start in range(0, len(reply), _REPLY_WIDTH))
        found = [
            Candidate(_state(state), held_blocks=held, claimed_blocks=claimed, claimed_tokens=tokens)
            for _, state, held, claimed, tokens in rows
        ]
        return sorted(found, key=lambda candidate: candidate.state.replica)

    async def claim(
        self,
        claim_id: str,
        replica: str,
        keys: Sequence[BlockKey],
        *,
        tokens: int,
        ttl_s: float = CLAIM_TTL_S,
    ) -> None:
        blob = b"".join(keys[:MAX_LOOKUP_BLOCKS])
        await self._run(self._claim, claim_id, replica, blob, max(tokens, 0), _milliseconds(ttl_s))

    async def withdraw(self, claim_id: str, replica: str, keys: Sequence[BlockKey]) -> None:
        await self._run(self._withdraw, claim_id, replica, b"".join(keys[:MAX_LOOKUP_BLOCKS]))

    async def states(self) -> list[ReplicaState]:
        reply = await self._run(self._states)
        return sorted(map(_state, reply), key=lambda state: state.replica)

    async def epoch(self) -> str:
        reply = await self._run(self._epoch, secrets.token_hex(8))
        return bytes(reply).decode()

    async def ping(self) -> None:
        await self.epoch()

    async def close(self) -> None:
        await self._client.aclose(close_connection_pool=True)

    async def _run(self, script: AsyncScript, *args: str | bytes | int) -> Any:
        try:
            async with asyncio.timeout(self._timeout_s):
                return await script(keys=[self._prefix], args=args)
        except TimeoutError as error:
            raise DirectoryUnavailableError(
                f"the directory at {self._where} did not answer within {self._timeout_s:g} s"
            ) from error
        except (RedisError, OSError) as error:
            raise DirectoryUnavailableError(
                f"the directory at {self._where} failed: {type(error).__name__}: {error}"
            ) from error


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))


_STATE_FIELDS = {item.name for item in fields(ReplicaState)}
_LOAD_FIELDS = {item.name for item in fields(ReplicaLoad)}


def _state(data: bytes) -> ReplicaState:
    """Read a published state; a newer version's fields are passed over, so versions can mix."""
    try:
        parts = {name: value for name, value in json.loads(data).items() if name in _STATE_FIELDS}
        load = {name: value for name, value in parts.pop("load", {}).items() if name in _LOAD_FIELDS}
        resident = tuple(parts.pop("resident", ()))
        return ReplicaState(**parts, load=ReplicaLoad(**load), resident=resident)
    except (ValueError, TypeError, AttributeError) as error:
        raise DirectoryUnavailableError("a replica's state in the directory cannot be read") from error
