"""What this package rests on in redis-py and hiredis: public names, within the bounds that are declared."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import tomllib
from collections.abc import Iterator
from pathlib import Path

import hiredis
import pytest
from packaging.requirements import Requirement
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from aloraserve.redis.replies import error_of

ROOT = Path(__file__).resolve().parents[3]
SOURCES = sorted((ROOT / "platform" / "aloraserve").rglob("*.py"))


def imported() -> Iterator[tuple[str, str]]:
    """Yield what the platform imports from the two packages."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in ("redis", "hiredis"):
                yield from ((node.module, alias.name) for alias in node.names)


def test_every_name_that_is_imported_is_public_and_there() -> None:
    found = set(imported())
    assert found
    for module, name in sorted(found):
        assert "._" not in f"{module}.{name}", f"{module}.{name} is private"
        assert hasattr(importlib.import_module(module), name), f"{module} has no {name}: aloraserve/redis needs it"


def test_connections_are_opened_without_redis_py() -> None:
    """Its connections can only be shared by many calls through private attributes."""
    assert {module for module, _ in imported()} <= {"redis.crc", "redis.exceptions"}


@pytest.mark.parametrize("name", ["redis", "hiredis"])
def test_what_is_installed_is_within_bounds(name: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    [declared] = [one for one in map(Requirement, project["dependencies"]) if one.name == name]
    assert any(bound.operator == "<" for bound in declared.specifier), f"{name} has no upper bound"
    assert declared.specifier.contains(importlib.metadata.version(name))


def test_replies_that_are_errors_keep_their_kinds() -> None:
    kinds = {}
    for code in ("ASK", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "MOVED", "NOAUTH", "NOPERM", "NOSCRIPT", "OOM"):
        kinds[code] = error_of(f"{code} 3999 10.0.0.1:6381")
        assert isinstance(kinds[code], RedisError)
    assert len({type(kind) for kind in kinds.values()}) == len(kinds)
    for code in ("ASK", "MOVED"):
        assert (kinds[code].host, kinds[code].port) == ("10.0.0.1", 6381)
    assert str(error_of("ERR something else")) == "ERR something else"
    assert isinstance(error_of("LOADING now"), RedisConnectionError)


def test_hiredis_packs_and_reads_what_is_needed() -> None:
    assert hiredis.pack_command(("EVALSHA", b"\x00", 1)) == b"*3\r\n$7\r\nEVALSHA\r\n$1\r\n\x00\r\n$1\r\n1\r\n"
    missing = object()
    reader = hiredis.Reader(replyError=error_of, notEnoughData=missing)
    reader.feed(b"*2\r\n:1\r\n$-1\r\n-NOSCRIPT no\r\n$5\r\nab")
    assert reader.gets() == [1, None]
    assert isinstance(reader.gets(), RedisError)
    assert reader.gets() is missing
