"""What commands ask of a platform as its administrator."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

import httpx

from aloraserve.errors import AloraserveError, StartError
from aloraserve.settings import Settings
from aloraserve.settings.variables import KEY_VARIABLE


class RefusedError(AloraserveError):
    """Raised when the platform does not have what is asked for, or does not show it to this caller."""


def admin_authorization(settings: Settings) -> dict[str, str]:
    """Return the header of who asks: the key of :data:`KEY_VARIABLE`, else the first of the settings, if any."""
    if own := os.environ.get(KEY_VARIABLE):
        return {"Authorization": f"Bearer {own}"}
    for key in (*settings.admin_keys.values(), *settings.api_keys.values()):
        return {"Authorization": f"Bearer {key.get_secret_value()}"}
    return {}


def fetch_for_admin(client: httpx.Client, path: str) -> dict[str, Any]:
    """Return what the platform says; see :func:`ask_as_admin`."""
    return ask_as_admin(client, "GET", path)


def ask_as_admin(
    client: httpx.Client,
    method: str,
    path: str,
    body: Mapping[str, Any] | bytes | None = None,
    *,
    timeout_s: float | None = None,
) -> dict[str, Any]:
    """Return what the platform answers.

    Args:
        client: of the platform.
        method: of HTTP.
        path: with its query.
        body: JSON, as an object or as it is; None: none.
        timeout_s: for the answer; None: the client's own.

    Raises:
        RefusedError: there is no such thing, it is asked for wrongly, or the key is not an administrator's.
        StartError: something else than the platform answers.
    """
    content = json.dumps(body).encode() if isinstance(body, Mapping) else body
    headers = {} if content is None else {"Content-Type": "application/json"}
    timeout = client.timeout if timeout_s is None else timeout_s
    answer = client.request(method, path, content=content, headers=headers, timeout=timeout)
    check_answer(client, answer)
    try:
        return dict(answer.json())
    except (ValueError, TypeError):
        raise _stranger(client, answer) from None


def check_answer(client: httpx.Client, answer: httpx.Response) -> None:
    """Pass an answer that is no error; its content has been read if it is one.

    Raises:
        RefusedError: the platform refuses.
        StartError: something else than the platform answers.
    """
    if answer.is_success:
        return
    try:
        message = str(answer.json()["error"]["message"])
    except (ValueError, TypeError, KeyError):
        raise _stranger(client, answer) from None
    raise RefusedError(message)


def _stranger(client: httpx.Client, answer: httpx.Response) -> StartError:
    return StartError(
        f"{client.base_url} is not an aloraserve platform: it answered {answer.status_code} {answer.text[:80]!r}"
    )
