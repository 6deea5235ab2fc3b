"""Whatever number is out of a setting's range is refused by the setting's name, from wherever it comes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from aloraserve.errors import SettingsError
from aloraserve.settings import Settings, load_settings

Write = Callable[[str | bytes], Path]

NUMERIC = sorted(
    name
    for name, field in Settings.model_fields.items()
    if {int, float} & {field.annotation, *get_args(field.annotation)}
)
FAR = [
    "-1",
    "-0.5",
    "nan",
    "NaN",
    "inf",
    "-inf",
    "Infinity",
    "1e400",
    "-1e400",
    "1e308",
    "9" * 400,
    "-" + "9" * 5000,
    "٣x",
]


@pytest.mark.parametrize("name", NUMERIC)
@pytest.mark.parametrize("number", FAR)
def test_a_number_out_of_range_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, write: Write, name: str, number: str
) -> None:
    with pytest.raises(SettingsError, match=rf"flag: {name} is '"):
        load_settings(**{name: number})
    with pytest.raises(SettingsError, match=rf": {name} is "):
        load_settings(write(f"{name}: {number}"))
    monkeypatch.setenv(f"ALORASERVE_{name.upper()}", number)
    with pytest.raises(SettingsError, match=rf"environment: {name} is '"):
        load_settings()


@pytest.mark.parametrize("name", NUMERIC)
@pytest.mark.parametrize("value", [True, [1]])
def test_what_is_not_a_number_is_none(name: str, value: Any) -> None:
    with pytest.raises(SettingsError, match=rf"flag: {name} is "):
        load_settings(**{name: value})


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(NUMERIC), text=st.text(max_size=12) | st.floats().map(str) | st.integers().map(str))
@example(name="port", text="8000")
def test_any_text_is_a_number_in_range_or_refused_by_name(name: str, text: str) -> None:
    value, message = outcome(name, text)
    assert name in message if value is None else abs(value) <= 1 << 40


def outcome(name: str, text: str) -> tuple[float | None, str]:
    """Return the setting's value, or what is said of it."""
    try:
        return getattr(load_settings(**{name: text}), name), ""
    except SettingsError as error:
        return None, error.message
