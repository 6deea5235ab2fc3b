"""Scripts touch no key but those that their calls declare: what can be seen in their text."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PLATFORM = Path(__file__).resolve().parents[3] / "platform" / "aloraserve"
SCRIPTS = sorted(PLATFORM.rglob("lua/**/*.lua"))
CALL = re.compile(r"redis\.p?call\(\s*'(\w+)'\s*(?:,\s*([^,()]+(?:\([^()]*\))?[^,()]*))?")
WITHOUT_KEYS = {"TIME", "INFO"}


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: str(path.relative_to(PLATFORM)))
def test_no_name_of_a_key_is_made_in_a_script(path: Path) -> None:
    """The contract tests run them under a guard as well (``support.declared_keys``)."""
    text = path.read_text()
    assert not re.search(r"KEYS\[[^\]]*\]\s*\.\.|\.\.\s*KEYS\[", text), "a name is made of a key"
    for command, key in CALL.findall(text):
        if command not in WITHOUT_KEYS:
            assert ".." not in key, f"{command} is called with a name that is made here: {key}"


def test_scripts_are_found() -> None:
    assert len(SCRIPTS) > 10
