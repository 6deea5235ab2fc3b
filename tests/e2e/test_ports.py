"""Every port of a running platform is on the page of ports, and listens and answers as that says."""

from __future__ import annotations

import re
import stat
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from support.listeners import Listener, grpc_answers, http_answer, listeners

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "ports.md"
JOBS = 52365
NUMBERS = {"not opened": 0, "two": 2, "several": 16}
REFUSED = {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.UNIMPLEMENTED}

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


@dataclass(frozen=True)
class Row:
    """A port on the page."""

    process: str
    port: str
    listens: str
    speaks: str
    asks: str

    @property
    def number(self) -> int:
        """How many ports it stands for."""
        return next((number for word, number in NUMBERS.items() if word in f"{self.port} {self.listens}"), 1)

    @property
    def is_loopback(self) -> bool:
        return "loopback" in self.listens


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    # Further down are those of containers and pods.
    here, _, _ = PAGE.read_text().partition("\n## ")
    lines = re.findall(r"^\| `([\w ]+)`[^|]*\|(.*)\|$", here, re.MULTILINE)
    return [Row(process, *(cell.strip() for cell in cells.split("|"))) for process, cells in lines]


@pytest.fixture(scope="module")
def open_ports(platform: Any) -> list[Listener]:
    return listeners(platform.process)


def test_every_open_port_is_on_the_page(open_ports: list[Listener], rows: list[Row]) -> None:
    of_process = Counter((port.kind, port.is_loopback, port.pid) for port in open_ports)
    allowed: Counter[tuple[str, bool]] = Counter()
    for row in rows:
        allowed[row.process, row.is_loopback] += row.number
    too_many = {key: count for key, count in of_process.items() if count > allowed[key[:2]]}
    assert not too_many
    # A port with a number of its own may be another platform's.
    expected = {(row.process, row.is_loopback) for row in rows if row.number and "if it is free" not in row.port}
    assert expected <= {key[:2] for key in of_process}


def test_no_port_that_others_reach_answers_without_a_token(open_ports: list[Listener]) -> None:
    public = [port for port in open_ports if not port.is_loopback]
    assert {port.kind for port in public} == {"gateway", "engine"}
    for port in public:
        answers = grpc_answers(port)
        assert answers <= REFUSED, port
        assert grpc.StatusCode.UNAUTHENTICATED in answers, port
        assert http_answer(port) is None, port


def test_rays_servers_on_loopback_ask_for_the_token_too(open_ports: list[Listener]) -> None:
    kinds = {"up", "controller", "gcs_server", "raylet", "dashboard agent", "gateway", "engine"}
    answers = {port: grpc_answers(port) for port in open_ports if port.kind in kinds}
    assert {port.kind for port, codes in answers.items() if grpc.StatusCode.UNAUTHENTICATED in codes} == kinds
    assert all(codes <= {*REFUSED, grpc.StatusCode.UNAVAILABLE} for codes in answers.values()), answers
    jobs = [port for port in open_ports if port.port == JOBS]
    assert all(http_answer(port, "/api/job_agent/jobs/") == 401 for port in jobs)


def test_every_process_has_a_private_log_file(platform: Any, command: Callable[..., Any]) -> None:
    folder = platform.state_dir / "logs"
    files = {path.stem: path for path in folder.glob("*.log")}
    assert set(files) == {"gateway-0", "engine-0", "engine-1"}
    assert {stat.S_IMODE(path.stat().st_mode) for path in files.values()} == {0o600}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    # What vLLM's own process writes is in its replica's file.
    assert "EngineCore" in files["engine-0"].read_text()
    shown = command("logs", "engine-1", "--lines", "3", "--state-dir", str(platform.state_dir))
    assert shown.returncode == 0, shown.stderr
    assert files["engine-1"].read_text().splitlines()[-1][:40] in shown.stdout


def test_nobody_else_enters_the_folder_of_temporary_files(platform: Any) -> None:
    engine = next(
        process for process in platform.process.children(recursive=True) if "ServeReplica" in "".join(process.cmdline())
    )
    environment = engine.environ()
    folder = Path(environment["TMPDIR"])
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (folder, folder.parent)}
    assert set(modes.values()) == {0o700}
    token = Path(environment["RAY_AUTH_TOKEN_PATH"])
    assert (stat.S_IMODE(token.stat().st_mode), token.parent) == (0o600, folder.parent)
    assert environment["RAY_AUTH_MODE"] == "token"
    assert list(folder.parent.glob("ray/session_*/sockets")), "Ray's own folders are in the private one"
