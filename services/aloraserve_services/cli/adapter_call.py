"""A call of an adapter, to see what it answers: as an intrinsic if it is one, else as a chat."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from rich.console import Console

from aloraserve.errors import SettingsError
from aloraserve.settings import Settings
from aloraserve_services.cli.admin_api import RefusedError, admin_authorization, ask_as_admin

CALL_TIMEOUT_S = 300.0
MAX_TOKENS = 64
MAX_INPUT_BYTES = 4 * 1024 * 1024
PARTS = ("messages", "documents")

CallInput = Annotated[
    str,
    typer.Argument(help="A user's message, or @FILE of JSON with 'messages' and, where it has some, 'documents'."),
]


def conversation_of(text: str) -> dict[str, Any]:
    """Return the conversation of a call, as parts of its body.

    Args:
        text: a user's message, or ``@`` and the path of a JSON file.

    Raises:
        SettingsError: the file cannot be read, or holds something else.
    """
    if not text.startswith("@"):
        return {"messages": [{"role": "user", "content": text}]}
    file = Path(text[1:]).expanduser()
    try:
        with file.open("rb") as opened:
            content = json.loads(opened.read(MAX_INPUT_BYTES))
    except (OSError, ValueError) as error:
        limit = f"{MAX_INPUT_BYTES >> 20} MiB"
        raise SettingsError(f"{file.name} cannot be read as JSON of at most {limit}: {error}") from error
    if not isinstance(content, dict) or "messages" not in content or set(content) - set(PARTS):
        raise SettingsError(f"{file.name} is not a JSON object with 'messages' and, where it has some, 'documents'")
    return content


def caller_authorization(settings: Settings) -> dict[str, str]:
    """Return the header of who calls: as of who asks, but a tenant's key of the settings before an administrator's."""
    return admin_authorization(settings.model_copy(update={"admin_keys": {}} if settings.api_keys else {}))


def call_adapter(client: httpx.Client, name: str, conversation: Mapping[str, Any]) -> dict[str, Any]:
    """Return what an adapter answers: an item of ``/v1/intrinsics``, or a chat's answer in the same form.

    Args:
        client: of the platform, with the caller's key.
        name: of the adapter.
        conversation: see :func:`conversation_of`.

    Raises:
        RefusedError: the call is refused, or fails.
        StartError: something else than the platform answers.
    """
    body = {**conversation, "intrinsics": [name]}
    answer = ask_as_admin(client, "POST", "/v1/intrinsics", body, timeout_s=CALL_TIMEOUT_S)
    result: dict[str, Any] = answer["results"][0]
    if result["status"] == "ok":
        return result
    error = result["error"]
    if error["param"] != "intrinsics":
        raise RefusedError(f"the call of {name} failed: {error['message']}")
    return _chat(client, name, conversation)


def _chat(client: httpx.Client, name: str, conversation: Mapping[str, Any]) -> dict[str, Any]:
    body = {**conversation, "model": name, "max_tokens": MAX_TOKENS, "temperature": 0}
    answer = ask_as_admin(client, "POST", "/v1/chat/completions", body, timeout_s=CALL_TIMEOUT_S)
    usage = answer["usage"]
    return {
        "name": name,
        "adapter": answer["model"],
        "text": answer["choices"][0]["message"]["content"],
        "usage": {
            "prompt_tokens": usage["prompt_tokens"],
            "cached_tokens": usage["prompt_tokens_details"]["cached_tokens"],
            "completion_tokens": usage["completion_tokens"],
        },
    }


def show_result(console: Console, result: Mapping[str, Any]) -> None:
    """Print what an adapter answered, what that means if it is an intrinsic, and what was reused."""
    lines = [f"{result['name']} answered {result['text']!r}"]
    if "value" in result:
        said = "" if result.get("probability") is None else f", probability {result['probability']:.3f}"
        lines.append(f"value {json.dumps(result['value'])}{said}")
    usage = result["usage"]
    lines.append(f"{usage['cached_tokens']} of {usage['prompt_tokens']} prompt tokens reused")
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
