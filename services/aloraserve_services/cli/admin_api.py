"""What commands read from a platform as its administrator."""

from __future__ import annotations

from typing import Any

import httpx

from aloraserve.errors import AloraserveError, StartError
from aloraserve.settings import Settings


class RefusedError(AloraserveError):
    """Raised when the platform does not have what is asked for, or does not show it to this caller."""


def admin_authorization(settings: Settings) -> dict[str, str]:
    """Return the header of who asks: the first administrator's key, else the first tenant's, if any."""
    for key in (*settings.admin_keys.values(), *settings.api_keys.values()):
        return {"Authorization": f"Bearer {key.get_secret_value()}"}
    return {}


def fetch_for_admin(client: httpx.Client, path: str) -> dict[str, Any]:
    """Return what the platform says.

    Args:
        client: of the platform.
        path: with its query.

    Raises:
        RefusedError: there is no such thing, it is asked for wrongly, or the key is not an administrator's.
        StartError: something else than the platform answers.
    """
    answer = client.get(path)
    try:
        content = answer.json()
        if answer.status_code == 200:
            return dict(content)
        raise RefusedError(str(content["error"]["message"]))
    except (ValueError, TypeError, KeyError):
        message = (
            f"{client.base_url} is not an aloraserve platform: it answered {answer.status_code} {answer.text[:80]!r}"
        )
        raise StartError(message) from None
