"""Exit with 0 if this container's gateway is ready, as its HTTP port says: the HEALTHCHECK of the images.

It asks as ``aloraserve up`` was told by its environment: ``ALORASERVE_PORT``, ``ALORASERVE_TLS_CERTIFICATE``.
"""

from __future__ import annotations

import os
import ssl
import sys
import urllib.error
import urllib.request

TIMEOUT_S = 4.0


def main() -> int:
    """Ask once; return the exit code, and say on standard error what is wrong."""
    is_encrypted = bool(os.environ.get("ALORASERVE_TLS_CERTIFICATE"))
    port = os.environ.get("ALORASERVE_PORT", "8000")
    url = f"{'https' if is_encrypted else 'http'}://127.0.0.1:{port}/readyz"
    # It never leaves the machine, and certificates name no loopback address.
    context = ssl._create_unverified_context() if is_encrypted else None
    handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({})]
    if context is not None:
        handlers.append(urllib.request.HTTPSHandler(context=context))
    try:
        with urllib.request.build_opener(*handlers).open(url, timeout=TIMEOUT_S):
            return 0
    except urllib.error.HTTPError as error:
        print(f"{url} answered {error.code}", file=sys.stderr)
    except OSError as error:
        print(f"nothing answers at {url}: {type(error).__name__}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
