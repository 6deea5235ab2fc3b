"""Limits and variables of the machine that a platform meets before it starts anything."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from aloraserve.settings import Settings
from aloraserve_services.local.surroundings import ELSEWHERE, LOOPBACK, MIN_FILES, own_environment

CHECK = (
    "import resource\nfrom aloraserve.errors import StartError\n"
    "from aloraserve_services.local.surroundings import check_limits\n"
    "resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))\n"
    "try:\n    check_limits()\nexcept StartError as error:\n    print(error)\n"
    "print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])\n"
)


def limited(soft: int, hard: int) -> list[str]:
    script = CHECK.format(soft=soft, hard=hard)
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60).stdout.split("\n")


def test_a_low_limit_of_open_files_is_raised_or_named() -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    assert limited(256, 4096)[0] == "4096"
    assert hard >= 4096
    assert limited(256, 256)[0] == f"the limit of open files (ulimit -n) is 256; {MIN_FILES} or more are needed"


def test_no_variable_leads_to_another_ray_or_has_a_proxy_between_this_machine_s_processes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "ray://10.0.0.9:10001")
    monkeypatch.setenv("VLLM_PORT", "tcp://10.96.0.9:8000")
    monkeypatch.setenv("NO_PROXY", "intranet")
    monkeypatch.delenv("no_proxy", raising=False)
    with own_environment(Settings(state_dir=tmp_path)):
        assert not set(ELSEWHERE) & set(os.environ)
        assert os.environ["no_proxy"] == os.environ["NO_PROXY"] == f"intranet,{LOOPBACK}"
    assert os.environ["RAY_ADDRESS"] == "ray://10.0.0.9:10001"
    assert "no_proxy" not in os.environ


def test_a_user_without_a_name_or_a_writable_home_has_both_for_the_platform(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def nameless() -> str:
        raise KeyError("getpwuid(): uid not found: 12345")

    monkeypatch.setattr("getpass.getuser", nameless)
    monkeypatch.setenv("HOME", str(tmp_path / "none"))
    for name in ("TORCHINDUCTOR_CACHE_DIR", "XDG_CACHE_HOME", "VLLM_CACHE_ROOT"):
        monkeypatch.delenv(name, raising=False)
    with own_environment(Settings(state_dir=tmp_path / "state")):
        assert os.environ["USER"] == f"uid-{os.getuid()}"
        assert os.environ["HOME"] == str(tmp_path / "state")
        assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "state" / "cache" / "torchinductor")
    assert os.environ["HOME"] == str(tmp_path / "none")
