"""The GPU kit and check, as far as they go without a GPU: packing, unpacking, the report."""

from __future__ import annotations

import ast
import hashlib
import io
import os
import struct
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from scripts import load_script

PLUGIN = Path(__file__).parents[1]
GPU = PLUGIN / "gpu"


def fat_binary(*entries: tuple[int, bytes]) -> bytes:
    """Return a fat binary with code of those architectures."""
    body = b"".join(
        struct.pack("<HHIQIIHHI", 2, 257, 64, len(code), 0, 0, 0, 0, architecture).ljust(64, b"\0") + code
        for architecture, code in entries
    )
    return struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(body)) + body


def test_only_one_architectures_code_is_left_and_nothing_moves() -> None:
    first = fat_binary((80, b"eighty--" * 4), (90, b"ninety--" * 4))
    second = fat_binary((100, b"hundred-" * 2), (90, b"ninety-2"))
    library = b"head" + first + b"between" + second + b"tail"
    shrunk = load_script("gpu", "fatbin").keep_architecture(library, 90)
    assert shrunk == library.replace(b"eighty--", bytes(8)).replace(b"hundred-", bytes(8))


def test_a_library_without_the_architecture_is_refused() -> None:
    with pytest.raises(ValueError, match="no code for sm_90"):
        load_script("gpu", "fatbin").keep_architecture(b"x" + fat_binary((80, b"eighty--")), 90)


@pytest.fixture
def kit(tmp_path: Path) -> Path:
    """A kit of one small file, in several parts."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:xz") as tar:
        info = tarfile.TarInfo("site/found.py")
        info.size = 9
        tar.addfile(info, io.BytesIO(b"VALUE = 7"))
    folder = tmp_path / "kit"
    folder.mkdir()
    content, lines = data.getvalue(), []
    for number, start in enumerate(range(0, len(content), 50), start=1):
        part = content[start : start + 50]
        (folder / f"part-{number}").write_bytes(part)
        lines.append(f"{hashlib.sha256(part).hexdigest()}  part-{number}\n")
    (folder / "SHA256SUMS").write_text("".join(lines))
    (folder / "unpack.py").write_bytes((GPU / "unpack.py").read_bytes())
    return folder


def unpack(kit: Path, target: Path) -> subprocess.CompletedProcess[str]:
    """Run the kit's own script, without this project on its path."""
    command = [sys.executable, "-I", str(kit / "unpack.py"), "--to", str(target)]
    return subprocess.run(command, capture_output=True, text=True)


def test_parts_are_joined_unpacked_and_compiled(kit: Path, tmp_path: Path) -> None:
    assert len(list(kit.glob("part-*"))) > 2
    done = unpack(kit, tmp_path / "there")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "there/site/found.py").read_text() == "VALUE = 7"
    assert list((tmp_path / "there/site/__pycache__").iterdir())


@pytest.mark.parametrize("name", ["../outside.py", "/outside.py", "site/../../outside.py"])
def test_a_python_without_filters_unpacks_nothing_elsewhere(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, module = io.BytesIO(), load_script("gpu", "unpack")
    with tarfile.open(fileobj=data, mode="w") as tar:
        for member in ("site/found.py", name):
            tar.addfile(tarfile.TarInfo(member))
    monkeypatch.delattr(tarfile, "data_filter", raising=False)
    target = tmp_path / "deep" / "there"
    data.seek(0)
    with tarfile.open(fileobj=data) as tar, pytest.raises(SystemExit, match=r"outside\.py"):
        module.extract(tar, target)
    assert (target / "site/found.py").is_file()
    assert not list(tmp_path.rglob("outside.py"))


def test_a_changed_or_missing_part_is_named_and_nothing_is_unpacked(kit: Path, tmp_path: Path) -> None:
    part = kit / "part-2"
    part.write_bytes(part.read_bytes()[::-1])
    done = unpack(kit, tmp_path / "there")
    assert done.returncode == 1
    assert "part-2 has SHA-256" in done.stderr
    part.unlink()
    assert "part-2 is missing" in unpack(kit, tmp_path / "there").stderr
    assert not (tmp_path / "there").exists()


JUNIT = """<testsuites><testsuite>
<testcase name="exact[v2_graphs]"><properties><property name="noise" value="0.01"/></properties></testcase>
<testcase name="warm[v2_graphs]"><failure>far</failure></testcase>
<testcase name="slept[v2_graphs]"><skipped/></testcase>
</testsuite></testsuites>"""


def test_the_report_says_what_failed_and_keeps_earlier_phases(tmp_path: Path) -> None:
    report_module = load_script("gpu", "report")
    (tmp_path / "junit.xml").write_text(JUNIT)
    report = report_module.Report({"GPU": "H100"})
    report.tests["v2_graphs"] = {**report_module.tests_of(tmp_path / "junit.xml"), "seconds": 30, "exit": 1}
    report.write(tmp_path)
    later = report_module.Report.load(tmp_path)
    later.add_measured("ttft", tmp_path / "none.json", -9, 210.0)
    later.write(tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert (
        "| v2_graphs | 1 passed, 1 failed, 1 skipped; failed: warm[v2_graphs]; exact[v2_graphs] noise: 0.01 | 30 |"
        in text
    )
    assert "## ttft (210 s, ended with exit code -9)" in text
    assert not later.is_good


def test_an_engine_that_was_cut_off_shows_what_had_ended(tmp_path: Path) -> None:
    log = tmp_path / "v2_graphs.log"
    log.write_text("gpu::exact[v2_graphs] PASSED [ 9%]\ngpu::warm[64-v2_graphs] FAILED [18%]\ngpu::late[v2_graphs] \n")
    found = load_script("gpu", "report").tests_so_far(log)
    assert found["summary"] == "cut off; 1 passed before"
    assert found["failed"] == ["warm[64-v2_graphs]"]


def test_a_process_that_outruns_its_limit_is_ended_and_its_log_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One phase that hangs must not lose the others."""
    monkeypatch.syspath_prepend(str(GPU))
    check = load_script("gpu", "check")
    command = [sys.executable, "-u", "-c", "print('  so far'); import threading; threading.Event().wait()"]
    seconds, code = check._run(command, tmp_path / "log", dict(os.environ), 2)
    assert code == -9
    assert seconds < 30
    assert "so far" in (tmp_path / "log").read_text()


def test_scripts_that_a_bare_machine_starts_with_need_nothing_but_python() -> None:
    for name in ("unpack", "check", "report"):
        nodes = list(ast.walk(ast.parse((GPU / f"{name}.py").read_text())))
        plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
        named = {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
        assert {found.partition(".")[0] for found in plain | named} <= {*sys.stdlib_module_names, "report"}
