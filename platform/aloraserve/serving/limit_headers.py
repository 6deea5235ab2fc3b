"""OpenAI's response headers of rate limits: what a tenant may do, what is left of it, and when all of it is again."""

from __future__ import annotations

from aloraserve.limits.base import NAMES, Standing, per_minute


def limit_headers(standing: Standing) -> dict[str, str]:
    """Return ``x-ratelimit-limit-requests``, ``-remaining-``, ``-reset-`` and so on, for each limit that there is.

    Source: https://platform.openai.com/docs/guides/rate-limits (``uncached-tokens`` and ``concurrency`` are ours).
    """
    headers: dict[str, str] = {}
    for index, (name, limit) in enumerate(zip(NAMES, per_minute(standing.limits), strict=True)):
        if limit:
            headers[f"x-ratelimit-limit-{name}"] = str(limit)
            headers[f"x-ratelimit-remaining-{name}"] = str(standing.remaining(index))
            headers[f"x-ratelimit-reset-{name}"] = duration(standing.used_us[index])
    places = standing.limits.concurrency
    if places is not None:
        headers["x-ratelimit-limit-concurrency"] = str(places)
        headers["x-ratelimit-remaining-concurrency"] = str(max(places - standing.running, 0))
    return headers


def duration(microseconds: int) -> str:
    """Return a time as OpenAI writes it, rounded up: "12ms", "1.5s", "6m0s"."""
    milliseconds = -(-max(microseconds, 0) // 1000)
    if milliseconds < 1000:
        return f"{milliseconds}ms"
    minutes, rest = divmod(milliseconds, 60_000)
    seconds = f"{rest / 1000:.3f}".rstrip("0").rstrip(".")
    return f"{minutes}m{seconds}s" if minutes else f"{seconds}s"
