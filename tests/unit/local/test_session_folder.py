"""The folder of Ray's session is its owner's alone."""

from __future__ import annotations

import stat
from pathlib import Path

from aloraserve_services.local.session_folder import TOKEN_BYTES, session_folder


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_nobody_else_enters_the_folder_or_reads_the_token() -> None:
    with session_folder() as folder:
        assert (mode(folder.path), mode(folder.temporary), mode(folder.token)) == (0o700, 0o700, 0o600)
        assert folder.path in folder.ray.parents


def test_each_session_has_a_long_token_of_its_own() -> None:
    with session_folder() as one, session_folder() as other:
        assert one.path != other.path
        tokens = {one.token.read_text(), other.token.read_text()}
    assert len(tokens) == 2
    assert all(len(bytes.fromhex(token)) == TOKEN_BYTES >= 32 for token in tokens)


def test_it_goes_with_everything_in_it() -> None:
    with session_folder() as folder:
        (folder.temporary / "left").write_text("behind")
    assert not folder.path.exists()
