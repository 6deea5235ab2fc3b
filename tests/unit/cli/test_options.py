"""Shared options: each is a key of the settings, spelled there alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from aloraserve.settings import Settings
from aloraserve_services.cli.console import EXIT_SETTINGS
from aloraserve_services.cli.options import ChosenSettings, takes_settings

loaded: list[Settings] = []
app = typer.Typer()


@app.command()
@takes_settings("replicas", "state_dir", "dtype", replicas=6)
def play(chosen: ChosenSettings, rounds: int = 5) -> None:
    """Load the settings that the command line chose."""
    loaded.append(chosen.load(engine="simulated", max_num_seqs=rounds))


urls = typer.Typer()


@urls.command()
@takes_settings("redis_url")
def connect(chosen: ChosenSettings) -> None:
    """Load the settings with a Redis."""
    chosen.load()


def settings_of(*arguments: str) -> Settings:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    return loaded.pop()


def test_options_that_are_given_reach_the_settings(tmp_path: Path) -> None:
    settings = settings_of("--replicas", "3", "--state-dir", str(tmp_path), "--dtype", "float32", "--rounds", "7")
    assert (settings.replicas, settings.state_dir, settings.dtype) == (3, tmp_path, "float32")
    assert settings.max_num_seqs == 7, "the command's own options stand beside the shared ones"


def test_a_commands_own_default_counts_where_the_option_is_not_given() -> None:
    assert settings_of().replicas == 6


def test_the_environment_counts_where_an_option_is_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALORASERVE_DTYPE", "bfloat16")
    assert settings_of().dtype == "bfloat16"
    assert settings_of("--dtype", "float32").dtype == "float32"


def test_what_a_command_fixes_wins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("engine: vllm\nblock_tokens: 64\n")
    settings = settings_of("--config", str(file))
    assert (settings.engine, settings.block_tokens) == ("simulated", 64)


def test_an_option_has_its_settings_description_and_says_what_is_accepted() -> None:
    shown = " ".join(CliRunner().invoke(app, ["--help"], env={"COLUMNS": "300"}).output.split())
    for name in ("replicas", "state_dir", "dtype"):
        assert str(Settings.model_fields[name].description) in shown
    assert "Accepted: auto, bfloat16, float32." in shown


def test_an_error_of_a_setting_is_one_line_and_an_exit_code() -> None:
    result = CliRunner().invoke(app, ["--dtype", "int4"])
    assert result.exit_code == EXIT_SETTINGS
    assert "error: flag: dtype is 'int4'" in result.stderr


@pytest.mark.parametrize(
    "url",
    ["redis://:hunter2@redis.example", "rediss://fleet:hunter2@redis.example:6380/1", "unix://:hunter2@/run/r.sock"],
)
def test_a_password_does_not_belong_on_the_command_line(url: str) -> None:
    result = CliRunner().invoke(urls, ["--redis-url", url])
    assert result.exit_code == EXIT_SETTINGS
    assert "--redis-url has a password" in result.output
    assert "ALORASERVE_REDIS_URL" in result.output
    assert "hunter2" not in result.output


@pytest.mark.parametrize("url", ["redis://redis.example", "redis://redis.example?credentials_file=/run/login"])
def test_a_url_without_one_does(url: str) -> None:
    assert CliRunner().invoke(urls, ["--redis-url", url]).exit_code == 0


def test_a_password_is_taken_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALORASERVE_REDIS_URL", "redis://:hunter2@redis.example")
    assert CliRunner().invoke(urls, []).exit_code == 0
