"""Variables of the environment that have processes go elsewhere, or fail."""

from __future__ import annotations

import os
from collections.abc import Iterator

from aloraserve.settings.variables import PREFIX, is_service_link
from aloraserve_services.doctor.base import Finding, failed, ok, warning
from aloraserve_services.local.surroundings import ELSEWHERE, LOOPBACK
from aloraserve_services.ray_authentication import MODE, TOKEN

PROXIES = ("http_proxy", "https_proxy", "all_proxy")
BOTH = "`aloraserve up` takes care of it; for `ray start` and `serve`"


def look_at_proxies() -> Iterator[Finding]:
    """See whether calls within this machine would go through a proxy."""
    found = [name for name in os.environ if name.lower() in PROXIES and os.environ[name]]
    direct = {each.strip() for each in (os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or "").split(",")}
    missing = [] if "*" in direct else [host for host in LOOPBACK.split(",") if host not in direct]
    if found and missing:
        yield warning(
            "proxies",
            f"{', '.join(sorted(found))} set, and no_proxy lacks {', '.join(missing)}",
            f"{BOTH} set NO_PROXY to {LOOPBACK} and the nodes' addresses",
        )
    else:
        yield ok("proxies", "none between this machine's processes")


def look_at_variables() -> Iterator[Finding]:
    """See whether Ray's or vLLM's own variables lead them elsewhere: Kubernetes sets some for a Service's name."""
    set_here = [name for name in ELSEWHERE if os.environ.get(name)]
    links = [name for name, value in os.environ.items() if name.startswith(PREFIX) and is_service_link(name, value)]
    if set_here:
        yield warning(
            "variables",
            f"{', '.join(set_here)} set",
            f"{BOTH} unset them; in pods, enableServiceLinks: false keeps Kubernetes from setting some",
        )
    elif links:
        yield warning(
            "variables",
            f"{len(links)} of a Kubernetes Service begin with {PREFIX}",
            "they are passed over; enableServiceLinks: false takes them out",
        )
    else:
        yield ok("variables", "none leads Ray or vLLM elsewhere")


def look_at_ray_token() -> Iterator[Finding]:
    """See whether Ray's authentication is turned off here."""
    mode = os.environ.get(MODE, TOKEN).lower()
    if mode == TOKEN:
        yield ok(
            "ray token", "asked for" if MODE in os.environ else f"{MODE} not set: `up` turns it on, `ray start` not"
        )
    else:
        yield failed(
            "ray token",
            f"{MODE} turns it off: whoever reaches Ray's ports can run code here",
            f"set {MODE}={TOKEN} for `ray start` and `serve`, or unset it",
        )
