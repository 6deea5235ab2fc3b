"""The API's description, and a page that shows it: nothing is fetched from elsewhere, so it works without a network."""

from __future__ import annotations

import functools
import importlib.util
import json
from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, Response

from aloraserve.wire.openapi import openapi_document
from aloraserve_services.gateway.routes import PARAMETER, Routes, not_found, parameters

PACKAGE = "fastapi_swagger"
"""Carries Swagger UI's files; only these are used."""
FILES = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "favicon-32x32.png": "image/png",
}
START = "start.js"
DAY_S = 86_400
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Scripts come from this server's files alone; Swagger UI writes styles of its own into the page."""
_PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>aloraserve: HTTP API</title>
<link rel="icon" href="docs/favicon-32x32.png">
<link rel="stylesheet" href="docs/swagger-ui.css">
</head>
<body>
<div id="api"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""
_START = """\
SwaggerUIBundle({ url: "openapi.json", dom_id: "#api", deepLinking: true, validatorUrl: null });
"""


class DocsRoutes:
    """See the module's docstring. The document is the same for everyone, so neither asks for a key."""

    def add_to(self, routes: Routes) -> None:
        """Add these routes to an application's."""
        routes.add("GET", "/openapi.json", self.document)
        routes.add("GET", "/docs", self.page)
        routes.add("GET", f"/docs/{PARAMETER}", self.file)

    async def document(self, request: Request) -> Response:
        """Return the description, OpenAPI 3.1."""
        return Response(_document(), media_type="application/json", headers={"Cache-Control": "no-cache"})

    async def page(self, request: Request) -> Response:
        """Return the page."""
        headers = {"Content-Security-Policy": POLICY, "Cache-Control": "no-cache"}
        return Response(_PAGE, media_type="text/html", headers=headers)

    async def file(self, request: Request) -> Response:
        """Return one of the page's own files."""
        [name] = parameters(request)
        headers = {"Cache-Control": f"public, max-age={DAY_S}"}
        if name == START:
            return Response(_START, media_type="text/javascript", headers=headers)
        if name not in FILES:
            return not_found(request.scope["path"])
        return FileResponse(_folder() / name, media_type=FILES[name], headers=headers)


@functools.cache
def _document() -> bytes:
    return json.dumps(openapi_document(), separators=(",", ":")).encode()


@functools.cache
def _folder() -> Path:
    """Return where Swagger UI is installed; the package is not imported."""
    found = importlib.util.find_spec(PACKAGE)
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent / "resources"
