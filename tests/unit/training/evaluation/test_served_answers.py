"""Answers of a platform that serves another version, says nothing of it, or fails: never taken for the adapter's."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from aloraserve.adapters import AdapterVersion
from aloraserve.client import Retries
from aloraserve.errors import TrainingError
from aloraserve.training import ProblemList, TrainingRow, read_rows
from aloraserve.training.results import ItemResult
from aloraserve.training.scored_form import ScoredForm
from aloraserve_services.training.progress import Silence
from aloraserve_services.training.served_answers import PlatformTarget, ServedAnswers

FORM = ScoredForm("choice", ("Y", "N"), (1.0, 0.0))
DIGEST = "0123456789abcdef" * 4
OURS, OTHERS = f"safety@{DIGEST[:32]}", f"safety@{'f' * 32}"
BUSY = {"status": "error", "status_code": 429, "error": {"message": "too many calls"}}

Answers = Callable[[Sequence[dict[str, Any]]], list[ItemResult]]


def ok(adapter: str | None) -> dict[str, Any]:
    return {"status": "ok", "text": "Y", "probability": 0.9, "adapter": adapter}


@pytest.fixture
def answers(tmp_path: Path) -> Iterator[Answers]:
    """Ask a server that answers the rows with given results, in order."""
    results: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            place = int(asked["messages"][0]["content"])
            body = json.dumps({"id": "1", "object": "intrinsics", "created": 1, "results": [results[place]]}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()

    def ask(given: Sequence[dict[str, Any]]) -> list[ItemResult]:
        results[:] = given
        target = PlatformTarget(f"http://127.0.0.1:{server.server_port}", "safety", concurrency=2)
        version = AdapterVersion("safety", "alora", tmp_path / "safety", 4, ("q_proj",), (1,), DIGEST)
        with closing(ServedAnswers(target, Retries(attempts=1))) as client:
            return client.answers("safety", version, rows(tmp_path, len(given)), FORM, Silence())

    try:
        yield ask
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def rows(folder: Path, count: int) -> list[TrainingRow]:
    lines = [{"messages": [{"role": "user", "content": str(number)}], "completion": "Y"} for number in range(count)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return list(read_rows(folder / "rows.jsonl", "rows.jsonl", ProblemList()).rows)


def test_a_row_that_fails_is_its_own_error(answers: Answers) -> None:
    found = answers([BUSY, ok(OURS), ok(OURS)])
    assert [(item.label, item.error) for item in found] == [(None, "too many calls"), ("Y", ""), ("Y", "")]


@pytest.mark.parametrize("place", [0, 2])
def test_another_version_is_refused_whichever_row_it_answers(answers: Answers, place: int) -> None:
    given = [ok(OURS), BUSY, ok(OURS)]
    given[place] = ok(OTHERS)
    with pytest.raises(TrainingError, match="serves another version as 'safety': ffffffffffff, and not 0123456789ab"):
        answers(given)


@pytest.mark.parametrize("adapter", [None, "", "safety", "safety@", "safety@0"])
def test_an_answer_that_does_not_say_its_version_is_refused(answers: Answers, adapter: str | None) -> None:
    with pytest.raises(TrainingError, match="does not say which version answers as 'safety'"):
        answers([ok(OURS), ok(adapter)])


def test_a_platform_that_answers_nothing_is_refused(answers: Answers) -> None:
    with pytest.raises(TrainingError, match=r"answered none of 2 rows as .safety.*: too many calls"):
        answers([BUSY, BUSY])
