"""Libraries that a server can do without: each stands in an extra of the distribution (``docs/start/install.md``)."""

from __future__ import annotations

import importlib.util

from aloraserve.errors import StartError


def require(extra: str, purpose: str, *modules: str) -> None:
    """Make sure that the libraries of an extra are installed before they are needed; imports none of them.

    Args:
        extra: of ``[project.optional-dependencies]`` in ``pyproject.toml``.
        purpose: what needs them: the subject of the message.
        modules: top-level modules.

    Raises:
        StartError: one is missing; names it, and the command that installs the extra.
    """
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        raise StartError(
            f'{purpose} needs {", ".join(missing)}, not installed here: pip install "aloraserve[{extra}]", '
            "or `make install` in a checkout"
        )
