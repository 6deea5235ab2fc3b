"""Calls through Serve's handles that are made side by side."""

from __future__ import annotations

import uuid
from dataclasses import replace

from ray.serve import context


def own_request_id() -> None:
    """Give the current task's next handle call an internal request id of its own.

    Serve indexes waiting calls by that id: parallel calls of one HTTP request would share it, and all but the first
    would wait for ever.
    """
    current = context._get_serve_request_context()
    context._serve_request_context.set(replace(current, _internal_request_id=uuid.uuid4().hex))
