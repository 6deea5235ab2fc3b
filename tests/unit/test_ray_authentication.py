"""An environment that would leave Ray's servers open is refused or overridden."""

from __future__ import annotations

from pathlib import Path

import pytest

from aloraserve.errors import SettingsError
from aloraserve_services import ray_authentication
from aloraserve_services.ray_authentication import authentication, refuse_open_ray, warn_of_open_ray


@pytest.mark.parametrize("mode", ["disabled", "DISABLED", "", "none", "Token2"])
def test_a_mode_without_a_token_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", mode)
    with pytest.raises(SettingsError, match=r"RAY_AUTH_MODE is .*; unset it, or set it to token"):
        refuse_open_ray()


@pytest.mark.parametrize("mode", [None, "token", "TOKEN"])
def test_a_mode_with_a_token_is_accepted(monkeypatch: pytest.MonkeyPatch, mode: str | None) -> None:
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    if mode is not None:
        monkeypatch.setenv("RAY_AUTH_MODE", mode)
    refuse_open_ray()


def test_no_inherited_token_takes_the_place_of_the_platform_s() -> None:
    variables = authentication(Path("/run/own/token"))
    assert variables["RAY_AUTH_TOKEN_PATH"] == "/run/own/token"
    assert (variables["RAY_AUTH_TOKEN"], variables["RAY_ENABLE_K8S_TOKEN_AUTH"]) == (None, None)


@pytest.mark.parametrize("asks", [True, False])
def test_a_ray_of_somebody_else_that_is_open_is_warned_of(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], asks: bool
) -> None:
    monkeypatch.setattr(ray_authentication, "asks_for_token", lambda: asks)
    warn_of_open_ray()
    assert ("ray_without_authentication" in capsys.readouterr().out) is not asks
