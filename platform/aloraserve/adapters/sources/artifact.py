"""Adapters that are artifacts in an OCI registry (extra ``oci``), as ``oras push`` writes them.

Each layer whose title is the name of an adapter's file is that file.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from aloraserve.adapters.sources.addresses import (
    CONNECT_TIMEOUT_S,
    READ_TIMEOUT_S,
    ForbiddenAddressError,
    ListsHost,
    guarded_pool,
)
from aloraserve.adapters.sources.base import (
    FILE_LIMITS,
    SourceChangedError,
    SourceFile,
    SourceInterruptedError,
)
from aloraserve.adapters.sources.http_content import chunks_of, forbidden
from aloraserve.adapters.sources.reference import SourceReference
from aloraserve.errors import AdapterSourceError

if TYPE_CHECKING:
    from requests import Response

MAX_MANIFEST_BYTES = 4 * 1024**2
MAX_LAYERS = 256
_TITLE = "org.opencontainers.image.title"
_MANIFESTS = "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json"
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_MAX_REDIRECTS = 5


class ArtifactSource:
    """See :class:`~aloraserve.adapters.sources.base.Source`. A file's version is the digest of its layer.

    Credentials are those of the server's Docker config, as ``docker login`` and ``oras login`` write it.

    Args:
        reference: with scheme "oci".
        lists_host: see :func:`~aloraserve.adapters.sources.addresses.guarded_pool`.

    Raises:
        AdapterSourceError: the extra is not installed.
    """

    def __init__(self, reference: SourceReference, lists_host: ListsHost) -> None:
        self._reference = reference
        self._registry = _registry(reference.host, lists_host)
        self._container = self._registry.get_container(str(reference).removeprefix("oci://"))

    def files(self) -> Sequence[SourceFile]:
        """See the contract."""
        layers = self._manifest().get("layers")
        if not isinstance(layers, list) or len(layers) > MAX_LAYERS:
            raise AdapterSourceError(
                f"{self._reference} is not an artifact of 1 to {MAX_LAYERS} layers; one pushed with oras is accepted"
            )
        found = {file.name: file for layer in layers if (file := _file_of(layer)) is not None}
        return [found[name] for name in FILE_LIMITS if name in found]

    def read(self, file: SourceFile, offset: int) -> Iterator[bytes]:
        """See the contract."""
        if offset == file.size:
            return
        url = self._container.get_blob_url(file.version)
        with self._get(url, {"Range": f"bytes={offset}-"} if offset else {}) as response:
            if response.status_code == 404:
                raise SourceChangedError
            yield from chunks_of(response.raw, offset if response.status_code == 200 else 0)

    def close(self) -> None:
        """See the contract."""
        self._registry.session.close()

    def _manifest(self) -> dict[str, Any]:
        """Return the manifest, which has the digest that the reference gives."""
        self._registry.auth.load_configs(self._container)
        with self._get(self._container.manifest_url(), {"Accept": _MANIFESTS}) as response:
            if response.status_code == 404:
                raise AdapterSourceError(f"{self._reference} is not in the registry")
            content = _read_bounded(response)
        wanted = self._reference.version
        if ":" in wanted and f"sha256:{hashlib.sha256(content).hexdigest()}" != wanted:
            raise AdapterSourceError(f"the manifest of {self._reference} has another digest")
        try:
            manifest = json.loads(content)
        except (ValueError, RecursionError):
            manifest = None
        if not isinstance(manifest, dict):
            raise AdapterSourceError(f"the manifest of {self._reference} is not a JSON object")
        return manifest

    def _get(self, url: str, headers: dict[str, str]) -> Response:
        from requests import RequestException

        url = f"{self._registry.prefix}://{url}"
        try:
            response: Response = self._registry.do_request(url, "GET", headers=headers, stream=True)
        except ForbiddenAddressError as error:
            raise forbidden(str(error) or self._reference.host) from None
        except (RequestException, OSError) as error:
            raise SourceInterruptedError(type(error).__name__) from error
        except ValueError as error:
            raise AdapterSourceError(
                f"the registry {self._reference.host} asks for credentials, and the server's Docker config has none "
                "that it takes"
            ) from error
        if response.status_code in (200, 206, 404):
            return response
        response.close()
        if response.status_code == 429 or response.status_code >= 500:
            raise SourceInterruptedError(f"status {response.status_code}")
        raise AdapterSourceError(f"the registry {self._reference.host} answers {response.status_code}")


def _registry(host: str, lists_host: ListsHost) -> Any:
    """Return oras' client of a registry, its connections guarded and its attempts not repeated by itself."""
    try:
        from oras.provider import Registry
        from requests.adapters import HTTPAdapter
    except ImportError:
        raise AdapterSourceError('oci sources need oras, not installed here: pip install "aloraserve[oci]"') from None

    class GuardedAdapter(HTTPAdapter):  # type: ignore[misc]
        def init_poolmanager(self, *_: Any, **__: Any) -> None:
            self.poolmanager = guarded_pool(lists_host)

        def send(self, request: Any, *args: Any, **options: Any) -> Response:
            options["timeout"] = (CONNECT_TIMEOUT_S, READ_TIMEOUT_S)
            try:
                response: Response = super().send(request, *args, **options)
            except ForbiddenAddressError:
                raise ForbiddenAddressError(urlsplit(request.url).hostname) from None
            if response.status_code in (401, 403):
                # oras reads its headers only, and leaves it open.
                response.close()
            return response

    class GuardedRegistry(Registry):  # type: ignore[misc]
        # oras waits 131 s in all before it gives up.
        do_request = Registry.do_request.__wrapped__

    registry = GuardedRegistry(hostname=host, insecure=_is_loopback(host))
    session = registry.session
    # Neither proxies, which would resolve names themselves, nor a .netrc's passwords.
    session.trust_env = False
    session.max_redirects = _MAX_REDIRECTS
    for scheme in ("https://", "http://"):
        session.mount(scheme, GuardedAdapter())
    return registry


def _is_loopback(host: str) -> bool:
    """Whether a registry is spoken to without TLS, as Docker does."""
    name = urlsplit(f"//{host}").hostname or ""
    return name in ("localhost", "::1") or name.startswith("127.")


def _read_bounded(response: Response) -> bytes:
    content = bytearray()
    for chunk in chunks_of(response.raw):
        content += chunk
        if len(content) > MAX_MANIFEST_BYTES:
            raise AdapterSourceError(f"the manifest is above {MAX_MANIFEST_BYTES} bytes, the most that is accepted")
    return bytes(content)


def _file_of(layer: object) -> SourceFile | None:
    """Return the file that a layer is, None if it is none of an adapter's."""
    found: dict[str, Any] = layer if isinstance(layer, dict) else {}
    annotations, size = found.get("annotations"), found.get("size")
    name = annotations.get(_TITLE) if isinstance(annotations, dict) else None
    if not isinstance(name, str) or name not in FILE_LIMITS:
        return None
    digest = _DIGEST.fullmatch(str(found.get("digest")))
    if digest is None or type(size) is not int or size < 0:
        raise AdapterSourceError(f"the layer {name} has no valid SHA-256 digest and size")
    return SourceFile(name, size, digest[0], digest[1])
