"""Who a connection logs in as: what the URL says, or a file that may change while the platform runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from redis.exceptions import AuthenticationError as RedisAuthenticationError

MAX_FILE_BYTES = 64 << 10
DEFAULT_USER = "default"


@dataclass(frozen=True, slots=True)
class Login:
    """A user and its password.

    Args:
        user: of the server's ACL.
        password: not part of the representation.
    """

    user: str
    password: str = field(repr=False)

    @property
    def command(self) -> tuple[str, str, str]:
        """The command that logs a connection in, also one that is logged in already."""
        return ("AUTH", self.user, self.password)


class Credentials(Protocol):
    """Gives the login of a connection that is about to be opened."""

    @property
    def may_change(self) -> bool:
        """Whether open connections have to log in again now and then."""
        ...

    def read(self) -> Login | None:
        """Return the login of now, None for a server that asks for none. Blocks while a file is read.

        Raises:
            OSError: the file cannot be read.
            RedisAuthenticationError: it is not what it should be.
        """
        ...


@dataclass(frozen=True, slots=True)
class FixedCredentials:
    """See :class:`Credentials`.

    Args:
        login: for ever.
    """

    login: Login | None = None
    may_change: bool = False

    def read(self) -> Login | None:
        return self.login


@dataclass(frozen=True, slots=True)
class CredentialsFile:
    """See :class:`Credentials`. Whoever rotates the password replaces the file.

    Args:
        path: a file with ``user:password``, the password up to the end or the last newline; an empty user is
            ``default``. A file, not one for each: two files cannot be replaced at once.
    """

    path: Path
    may_change: bool = True

    def read(self) -> Login | None:
        with self.path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
        text = data.decode("utf-8", "replace").rstrip("\r\n")
        user, colon, password = text.partition(":")
        if not colon or len(data) > MAX_FILE_BYTES or "\n" in text:
            raise RedisAuthenticationError(f"the credentials file {self.path} is not one line user:password")
        return Login(user or DEFAULT_USER, password)
