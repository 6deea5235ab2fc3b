"""Log records are objects with the request they belong to, and tell no secret."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from aloraserve.telemetry.logs import bind_request, configure_logs


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    yield
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


def record(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    (line,) = capsys.readouterr().err.splitlines()
    found: dict[str, Any] = json.loads(line)
    return found


def test_a_record_is_a_json_object_with_its_request_and_trace(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs("json")
    bind_request("r1", "0af7651916cd43dd8448eb211c80319c")
    structlog.get_logger("x").warning("replica_lost", tries_left=2)
    found = record(capsys)
    assert found.pop("time").endswith("Z")
    assert found == {
        "level": "warning",
        "message": "replica_lost",
        "tries_left": 2,
        "request_id": "r1",
        "trace_id": "0af7651916cd43dd8448eb211c80319c",
    }


def test_without_a_terminal_auto_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs()
    structlog.get_logger("x").info("started")
    assert record(capsys)["message"] == "started"


@pytest.mark.parametrize("form", ["json", "text"])
def test_a_traceback_shows_no_local_variable(form: Any, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs(form)
    try:
        prompt = "a zebra"
        raise KeyError(len(prompt))
    except KeyError as error:
        structlog.get_logger("x").error("request_failed", exc_info=error)
    said = capsys.readouterr().err
    assert "KeyError" in said
    assert "test_logs" in said
    assert "zebra" not in said


def test_a_logger_made_before_is_configured_too(capsys: pytest.CaptureFixture[str]) -> None:
    log = structlog.get_logger("early")
    configure_logs("json")
    log.info("later")
    assert record(capsys)["message"] == "later"


@pytest.mark.parametrize("form", ["json", "text"])
def test_a_login_or_a_key_that_somebody_put_into_a_record_is_not_shown(
    form: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logs(form)
    logger = structlog.get_logger("x")
    logger.error("not_reached", url="rediss://fleet:hunter2@redis.example:6379/0", header="Bearer hunter2-hunter2")
    try:
        raise ConnectionError("redis://:hunter2@10.0.0.1 refused")
    except ConnectionError as error:
        logger.error("request_failed", exc_info=error)
    said = capsys.readouterr().err
    assert "redis.example:6379/0" in said
    assert "10.0.0.1 refused" in said
    assert "hunter2" not in said
