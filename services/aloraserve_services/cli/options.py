"""Options that several commands share, each spelled once.

An option that sets a key of :class:`~aloraserve.settings.Settings` has that key's name, type and description. A command
lists the keys that it takes with :func:`takes_settings` and gets their values as one :class:`ChosenSettings`.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Concatenate, Literal, ParamSpec, get_args, get_origin

import typer

from aloraserve.errors import SettingsError
from aloraserve.redis.url import redacted_url
from aloraserve.settings import Settings, load_settings
from aloraserve_services.cli.console import clearly

P = ParamSpec("P")

JsonFile = Annotated[Path | None, typer.Option(help="Also write the figures to this file.")]
PrintJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
PlatformUrl = Annotated[str | None, typer.Option(help="Address of a platform elsewhere.")]
PromptSeed = Annotated[int, typer.Option(help="Seed of the prompts.")]

_CONFIG = inspect.Parameter(
    "config",
    inspect.Parameter.KEYWORD_ONLY,
    default=None,
    annotation=Annotated[Path | None, typer.Option(help="YAML file of settings.", envvar="ALORASERVE_CONFIG")],
)
_KINDS = (int, float, Path)


@dataclass(frozen=True, slots=True)
class ChosenSettings:
    """Settings as the command line gives them.

    Args:
        config: file of settings, None without one.
        flags: value of each option that sets a key; None where it was not given.
    """

    config: Path | None
    flags: dict[str, Any]

    def load(self, **fixed: Any) -> Settings:
        """Return all settings.

        Args:
            fixed: keys that the command itself sets; a value here wins over the option.

        Raises:
            SettingsError: a key is unknown or its value is not accepted, or an option has a password in it.
        """
        _refuse_passwords(self.flags)
        return load_settings(self.config, **{**self.flags, **fixed})


def _refuse_passwords(flags: dict[str, Any]) -> None:
    """Every user of a machine reads the command lines of all: a password does not belong there."""
    url = flags.get("redis_url")
    if url is not None and "***" in redacted_url(url):
        raise SettingsError(
            "--redis-url has a password, which every user of this machine could read in the list of processes; set "
            "ALORASERVE_REDIS_URL, redis_url in a file (--config), or name a file in the URL (credentials_file=)"
        )


def takes_settings(
    *names: str, **defaults: Any
) -> Callable[[Callable[Concatenate[ChosenSettings, P], None]], Callable[..., None]]:
    """Give a command ``--config`` and an option for each of these settings; report its errors clearly.

    Args:
        names: keys of the settings.
        defaults: values of options that are not given, where the command has its own.
    """

    def decorate(command: Callable[Concatenate[ChosenSettings, P], None]) -> Callable[..., None]:
        shared = [_CONFIG, *(_option(name, defaults.get(name)) for name in names)]
        _, *own = inspect.signature(command, eval_str=True).parameters.values()

        @functools.wraps(command)
        def run(**given: Any) -> None:
            chosen = ChosenSettings(given.pop("config"), {name: given.pop(name) for name in names})
            clearly(command)(chosen, **given)

        # Typer reads a command's options from its signature and its annotations.
        found: Any = run
        found.__signature__ = inspect.Signature([*own, *shared])
        found.__annotations__ = {parameter.name: parameter.annotation for parameter in (*own, *shared)}
        return run

    return decorate


def _option(name: str, default: Any) -> inspect.Parameter:
    field = Settings.model_fields[name]
    accepted = (field.annotation, *get_args(field.annotation))
    # Anything else is text, which the settings parse and check.
    kind: Any = next((kind for kind in _KINDS if kind in accepted), str)
    words = [field.description or ""]
    if get_origin(field.annotation) is Literal:
        words.append(f"Accepted: {', '.join(map(str, get_args(field.annotation)))}.")
    annotation = Annotated[kind | None, typer.Option(help=" ".join(words))]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def check_result_file(path: Path | None, option: str = "json") -> None:
    """Raise SettingsError if a result could not be written: the folder must exist before anything is measured."""
    if path is not None and not path.absolute().parent.is_dir():
        raise SettingsError(f"{option} is {str(path)!r}: its folder does not exist")


def prompt_lengths(text: str, settings: Settings, reserved_tokens: int = 256) -> list[int]:
    """Return the prompt lengths of an option's text.

    Args:
        text: integers, separated by commas.
        settings: their context length bounds the prompts.
        reserved_tokens: of the context, for what follows a prompt.

    Raises:
        SettingsError: the text is not of that form, or a length is out of range.
    """
    most = settings.max_model_len - reserved_tokens
    try:
        lengths = [int(length) for length in text.split(",")]
    except ValueError:
        lengths = []
    if not lengths or not all(1 <= length <= most for length in lengths):
        raise SettingsError(f"lengths is {text[:80]!r}; integers from 1 to {most}, separated by commas, are accepted")
    return lengths
