"""Logs of what runs in Serve's controller: they go where the controller's own go, in its format."""

from __future__ import annotations

import logging
from typing import Any

import structlog

LOGGER = "ray.serve"


def controller_log() -> Any:
    """Return a logger of events with values, as ``structlog.get_logger`` does."""
    return structlog.wrap_logger(
        logging.getLogger(LOGGER),
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(default=str),
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
    )
