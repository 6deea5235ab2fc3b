"""Windows of time that end now, as query parameters name them."""

from __future__ import annotations

import re

from aloraserve.errors import InvalidRequestError

DEFAULT_WINDOW = "1h"
SHORTEST_WINDOW_S = 60
LONGEST_WINDOW_S = 24 * 3600
"""What sums by the minute are kept for."""
_WINDOW = re.compile(r"([1-9][0-9]{0,5})(s|m|h)")
_UNIT_S = {"s": 1, "m": 60, "h": 3600}


def parse_window(text: str | None) -> int:
    """Return a window in seconds; :data:`DEFAULT_WINDOW` if none is asked for.

    Raises:
        InvalidRequestError: it is not a number of seconds, minutes or hours between a minute and a day.
    """
    text = DEFAULT_WINDOW if text is None else text
    match = _WINDOW.fullmatch(text)
    seconds = int(match[1]) * _UNIT_S[match[2]] if match else 0
    if not SHORTEST_WINDOW_S <= seconds <= LONGEST_WINDOW_S:
        raise InvalidRequestError(
            f"window is {text[:20]!r}; 1m to 24h are accepted, such as 90s, 15m or 1h", param="window"
        )
    return seconds
