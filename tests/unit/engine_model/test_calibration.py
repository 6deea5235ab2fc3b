"""Calibrations: those that come with the package, what a file must be, and the fit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aloraserve.engine_model.calibration import load, names, parse
from aloraserve.engine_model.fitting import (
    DecodeSample,
    PrefillSample,
    decode_error,
    fit_decode,
    fit_nonnegative,
    fit_prefill,
    prefill_error,
)
from aloraserve.errors import SettingsError

GOOD = json.loads(load("h100-llama-3.1-8b").model_dump_json())


def test_both_calibrations_come_with_the_package_and_say_where_they_are_from() -> None:
    assert {"cpu-smollm2", "h100-llama-3.1-8b"} <= set(names())
    for name in names():
        found = load(name)
        assert found.name == name
        assert found.sources
    assert load("h100-llama-3.1-8b").kv_tokens == 351_104


def test_a_file_is_read_by_its_path(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(GOOD | {"name": "mine"}))
    assert load(str(path)).name == "mine"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kv_tokens": 0}, "kv_tokens: .*got 0"),
        ({"kv_tokens": "many"}, "kv_tokens: .*got 'many'"),
        ({"speed": 1}, "speed: .*not permitted"),
        ({"date": "yesterday"}, "date: "),
        ({"prefill": GOOD["prefill"] | {"s_per_token": 0.0}}, "prefill.s_per_token: "),
        ({"decode": GOOD["decode"] | {"fixed_s": -1.0}}, "decode.fixed_s: "),
        ({"adapters": GOOD["adapters"] | {"resident": 1}}, "adapters.resident is 1; at least adapters.slots"),
        ({"sources": []}, "sources: "),
    ],
)
def test_a_wrong_value_is_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=f"calibration f.json: {message}"):
        parse(json.dumps(GOOD | change), "f.json")


def test_what_is_not_a_calibration_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"calibration f.json: the file: "):
        parse("{", "f.json")
    with pytest.raises(SettingsError, match=", ".join(names())):
        load("nowhere")


@given(
    fixed=st.floats(1e-4, 0.1),
    linear=st.floats(1e-5, 1e-2),
    quadratic=st.one_of(st.just(0.0), st.floats(1e-9, 1e-6)),
    adapter=st.one_of(st.just(0.0), st.floats(1e-6, 1e-3)),
)
def test_a_prefill_fit_finds_the_times_that_samples_were_made_with(
    fixed: float, linear: float, quadratic: float, adapter: float
) -> None:
    samples = []
    for start, end in ((0, 64), (0, 256), (0, 1024), (0, 4096), (512, 576), (1024, 2048), (2048, 2112)):
        for by_adapter in (False, True):
            tokens = end - start
            seconds = fixed * -(-tokens // 2048) + linear * tokens + quadratic * (end**2 - start**2) / 2
            samples.append(PrefillSample(start, end, seconds + adapter * tokens * by_adapter, by_adapter))
    times = fit_prefill(samples, 2048)
    assert prefill_error(samples, times, 2048) < 1e-6
    assert times.s_per_token == pytest.approx(linear, rel=1e-3)
    assert times.adapter_s_per_token == pytest.approx(adapter, rel=1e-3, abs=1e-9)


def test_a_decode_fit_finds_the_times_that_samples_were_made_with() -> None:
    samples = [DecodeSample(n, n * c, 0.02 + 0.002 * n + 1e-6 * n * c) for n in (1, 2, 4, 8) for c in (100, 1000)]
    times = fit_decode(samples)
    assert (times.fixed_s, times.s_per_sequence) == pytest.approx((0.02, 0.002))
    assert times.s_per_context_token == pytest.approx(1e-6)
    assert decode_error(samples, times) < 1e-9


def test_no_part_is_negative() -> None:
    # Shorter prompts that took longer would make the linear part negative.
    found = fit_nonnegative([(1.0, 10.0), (1.0, 20.0)], [2.0, 1.0], needed=(0,))
    assert found[0] > 0
    assert found[1] == 0.0


def test_too_few_samples_are_reported() -> None:
    with pytest.raises(SettingsError, match="1 samples do not determine"):
        fit_nonnegative([(0.0, 1.0)], [1.0], needed=(0,))
