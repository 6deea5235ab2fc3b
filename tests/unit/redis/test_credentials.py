"""The file that a login is read from."""

from __future__ import annotations

from pathlib import Path

import pytest
from redis.exceptions import AuthenticationError

from aloraserve.redis.credentials import MAX_FILE_BYTES, CredentialsFile, Login


@pytest.mark.parametrize(
    ("text", "login"),
    [
        ("me:s3cret", Login("me", "s3cret")),
        ("me:s3:cr et\n", Login("me", "s3:cr et")),
        (":s3cret\r\n", Login("default", "s3cret")),
        ("me:", Login("me", "")),
    ],
)
def test_a_file_has_a_user_and_a_password(tmp_path: Path, text: str, login: Login) -> None:
    path = tmp_path / "redis"
    path.write_bytes(text.encode())
    assert CredentialsFile(path).read() == login


@pytest.mark.parametrize("text", ["", "s3cret", "me:s3cret\nmore", "me:" + "s" * MAX_FILE_BYTES])
def test_a_file_that_is_something_else_is_refused_without_being_repeated(tmp_path: Path, text: str) -> None:
    path = tmp_path / "redis"
    path.write_text(text)
    with pytest.raises(AuthenticationError, match=r"redis is not one line user:password") as caught:
        CredentialsFile(path).read()
    assert "s3cret" not in str(caught.value)


def test_a_file_is_read_each_time(tmp_path: Path) -> None:
    path = tmp_path / "redis"
    path.write_text("me:old")
    credentials = CredentialsFile(path)
    credentials.read()
    path.write_text("me:new")
    assert credentials.read() == Login("me", "new")
    assert "new" not in repr(credentials.read())
