"""What ``aloraserve doctor`` says of servers, each with its fault really made."""

from __future__ import annotations

import asyncio
import contextlib
import re
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import OutOfMemoryError
from support.own_valkey import socket_url, valkey_server
from support.redis_deployments import free_port
from support.redis_proxy import redis_proxy

from aloraserve.blocks import KeySpace
from aloraserve.directory.redis import RedisDirectory
from aloraserve.settings import load_settings
from aloraserve_services.doctor.base import Finding, Level
from aloraserve_services.doctor.redis_server import look_at_redis

WELL = {"maxmemory": "64mb", "maxmemory_policy": "volatile-lru", "appendonly": "yes"}
PASSWORD = "hunter2-hunter2-hunter2"


def found(url: str, **settings: object) -> dict[str, Finding]:
    findings = list(look_at_redis(load_settings(redis_url=url, **settings)))
    assert len({finding.check for finding in findings}) == len(findings)
    return {finding.check.removeprefix("redis: "): finding for finding in findings}


def levels(findings: dict[str, Finding]) -> dict[str, Level]:
    return {name: finding.level for name, finding in findings.items()}


def fill(socket_path: str) -> None:
    """Write until the server refuses."""
    with Redis(unix_socket_path=socket_path) as client, contextlib.suppress(OutOfMemoryError):
        for number in range(1000):
            client.set(f"large {number}", "x" * 50_000)


def test_nothing_is_wrong_with_a_server_that_is_set_up_well() -> None:
    with valkey_server(**WELL) as server:
        findings = found(socket_url(server))
    assert set(levels(findings).values()) == {Level.OK}, findings
    assert set(findings) == {"redis", "memory", "eviction", "persistence", "latency", "clock"}
    assert findings["redis"].found.startswith("Valkey 9.")


@pytest.mark.parametrize(
    ("change", "check", "level", "words"),
    [
        ({"maxmemory": "0"}, "memory", Level.WARNING, "no limit"),
        ({"maxmemory_policy": "allkeys-lru"}, "eviction", Level.FAILED, "allkeys-lru: it may evict"),
        ({"maxmemory_policy": "noeviction"}, "eviction", Level.WARNING, "refuses what replicas report"),
        ({"appendonly": "no", "save": ""}, "persistence", Level.WARNING, "none: keys"),
        ({"appendonly": "no", "save": "3600 1"}, "persistence", Level.WARNING, "snapshots alone"),
    ],
)
def test_a_setting_that_hurts_is_named_with_its_remedy(
    change: dict[str, str], check: str, level: Level, words: str
) -> None:
    with valkey_server(**WELL | change) as server:
        findings = found(socket_url(server))
    assert findings[check].level is level
    assert words in findings[check].found
    assert findings[check].remedy
    assert [name for name, each in levels(findings).items() if each is not Level.OK] == [check]


def test_a_full_server_is_named() -> None:
    with valkey_server(**WELL | {"maxmemory": "3mb", "maxmemory_policy": "noeviction"}) as server:
        fill(str(server.unix_socket_path))
        findings = found(socket_url(server))
    assert "% of 0.00 GiB used" in findings["memory"].found
    assert findings["memory"].level is Level.WARNING


def test_a_server_that_is_gone_is_named_without_its_password() -> None:
    [finding] = found(f"redis://user:{PASSWORD}@127.0.0.1:{free_port()}/0").values()
    assert finding.level is Level.FAILED
    assert "does not answer" in finding.found
    assert PASSWORD not in repr(finding)


def test_a_login_that_the_server_does_not_know_is_named_without_its_password(tmp_path: Path) -> None:
    with valkey_server(**WELL) as server, Redis(unix_socket_path=str(server.unix_socket_path)) as client:
        client.config_set("requirepass", "another-password")
        file = tmp_path / "login"
        file.write_text(f"default:{PASSWORD}")
        [finding] = found(f"{socket_url(server)}?credentials_file={file}").values()
    assert finding.level is Level.FAILED
    assert "WRONGPASS" in finding.found or "invalid" in finding.found
    assert PASSWORD not in repr(finding)


def test_a_server_that_is_too_old_is_named() -> None:
    def older(reply: bytes) -> bytes:
        return re.sub(rb"redis_version:7\.\d", b"redis_version:6.2", reply)

    with valkey_server(**WELL) as server, redis_proxy(str(server.unix_socket_path), change=older) as url:
        finding = found(url)["redis"]
    assert finding.level is Level.FAILED
    assert "use Redis 7 or later" in finding.remedy


def test_a_clock_that_is_off_is_named() -> None:
    def behind(reply: bytes) -> bytes:
        time = rb"\*2\r\n\$10\r\n(\d{10})\r\n"
        return re.sub(time, lambda match: b"*2\r\n$10\r\n%d\r\n" % (int(match[1]) - 90), reply)

    with valkey_server(**WELL) as server, redis_proxy(str(server.unix_socket_path), change=behind) as url:
        finding = found(url)["clock"]
    assert finding.level is Level.FAILED
    assert re.match(r"(89|90)\.\d s behind this machine's", finding.found)


@pytest.mark.parametrize(("budget_ms", "level"), [(4, Level.FAILED), (16, Level.WARNING)])
def test_a_server_that_is_far_away_is_named(budget_ms: int, level: Level) -> None:
    with valkey_server(**WELL) as server, redis_proxy(str(server.unix_socket_path), delay_s=0.006) as url:
        finding = found(url, lookup_budget_ms=budget_ms)["latency"]
    assert finding.level is level
    assert "one zone" in finding.remedy


def test_a_fleet_of_another_plugin_is_named() -> None:
    async def join(url: str) -> None:
        directory = RedisDirectory.from_url(url, namespace="aloraserve")
        await directory.join(KeySpace("model", "tokenizer", 32, plugin="vllm-alora 9.9.9"))
        await directory.close()

    with valkey_server(**WELL) as server:
        asyncio.run(join(socket_url(server)))
        finding = found(socket_url(server), namespace="aloraserve")["fleet"]
    assert finding.level is Level.FAILED
    assert "engines of vllm-alora 9.9.9 run" in finding.found


def test_each_cell_s_server_is_looked_at() -> None:
    with valkey_server(**WELL) as server:
        urls = (socket_url(server), f"redis://127.0.0.1:{free_port()}/0")
        findings = found(socket_url(server), cells=2, cell_redis_urls=urls)
    assert findings["redis of cell 0"].level is Level.OK
    assert findings["redis of cell 1"].level is Level.FAILED
    assert "redis of cell 0: persistence" not in findings
