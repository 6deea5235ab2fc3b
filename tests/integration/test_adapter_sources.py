"""Adapters fetched from real servers: moto's S3, object stores over HTTP, Debian's registry, a hub over HTTP."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import obstore
import pytest
from obstore.store import S3Store
from oras.client import OrasClient
from pytest_httpserver import HTTPServer
from support.adapter_servers import BUCKET, oci_registry, s3_server
from support.peft_adapters import write_peft_adapter
from werkzeug import Request, Response

from aloraserve.adapters.sources import FetchLimits, SourceFetcher, SourcePolicy
from aloraserve.errors import AdapterSourceError

MIB = 1 << 20
LARGE = os.urandom(3 * MIB)
WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"

Fetch = Callable[..., Path]

pytestmark = pytest.mark.untimed


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """An adapter with weights of 3 MiB and every optional file, and one file more."""
    folder = write_peft_adapter(tmp_path / "safety")
    (folder / WEIGHTS).write_bytes(LARGE)
    (folder / "io.yaml").write_text("model: safety")
    (folder / "optimizer.pt").write_bytes(b"x")
    return folder


@pytest.fixture
def fetch(tmp_path: Path) -> Fetch:
    """Fetch with the sources that are given as allowed."""
    (tmp_path / "stage").mkdir()

    def stage() -> Path:
        folder = tmp_path / "stage" / "new"
        folder.mkdir()
        return folder

    def run(reference: str, *allowed: str, **limits: float) -> Path:
        found = FetchLimits(first_pause_s=0.01, **limits)  # type: ignore[arg-type]
        return SourceFetcher(SourcePolicy.of(allowed), stage, found).fetch(reference)

    return run


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "optimizer.pt"}


def left(tmp_path: Path) -> list[str]:
    return os.listdir(tmp_path / "stage")


def upload(adapter: Path, prefix: str) -> None:
    for path in adapter.iterdir():
        obstore.put(S3Store(BUCKET), f"{prefix}/{path.name}", path.read_bytes())


class TestS3:
    @pytest.fixture(autouse=True)
    def url(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
        with s3_server(monkeypatch) as url:
            yield url

    def test_the_files_come(self, adapter: Path, fetch: Fetch) -> None:
        upload(adapter, "team/safety")
        assert content(fetch(f"s3://{BUCKET}/team/safety", f"s3://{BUCKET}/team")) == content(adapter)

    @pytest.mark.parametrize("bucket", [BUCKET, "no-such-bucket"])
    def test_what_is_not_there_is_one_error(self, tmp_path: Path, fetch: Fetch, bucket: str) -> None:
        with pytest.raises(AdapterSourceError, match=r"adapter_config.json is missing"):
            fetch(f"s3://{bucket}/nothing", "s3://")
        assert left(tmp_path) == []

    def test_an_object_that_changes_meanwhile_is_fetched_again(self, adapter: Path, tmp_path: Path) -> None:
        upload(adapter, "safety")
        changed = threading.Event()
        (tmp_path / "stages").mkdir()

        def change(done: int, total: int) -> None:
            # Listed with the former content, read with the next.
            if not changed.is_set():
                changed.set()
                obstore.put(S3Store(BUCKET), f"safety/{WEIGHTS}", LARGE[::-1])

        fetcher = SourceFetcher(SourcePolicy.of(["s3://"]), lambda: _new(tmp_path / "stages"))
        found = fetcher.fetch(f"s3://{BUCKET}/safety", progress=change)
        assert (found / WEIGHTS).read_bytes() == LARGE[::-1]
        assert os.listdir(tmp_path / "stages") == [found.name]


class TestObjectStores:
    """All three, over HTTP as each speaks it; no emulator of the other two answers obstore."""

    @pytest.fixture(params=["s3://adapters", "gs://adapters", "az://account/adapters"])
    def place(
        self, request: pytest.FixtureRequest, httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> str:
        url = httpserver.url_for("").rstrip("/")
        account = {"gcs_base_url": url, "disable_oauth": True, "client_email": "", "private_key": ""}
        (tmp_path / "account.json").write_text(json.dumps(account | {"private_key_id": ""}))
        environment = {
            "AWS_ENDPOINT_URL": url,
            "AWS_ACCESS_KEY_ID": "hidden-id",
            "AWS_SECRET_ACCESS_KEY": "hidden",
            "GOOGLE_SERVICE_ACCOUNT": str(tmp_path / "account.json"),
            "AZURE_STORAGE_ENDPOINT": url,
            "AZURE_STORAGE_ACCOUNT_KEY": "aGlkZGVu",
            **{f"{provider}_ALLOW_HTTP": "true" for provider in ("AWS", "GOOGLE", "AZURE")},
        }
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        return str(request.param)

    def test_the_files_come(self, place: str, httpserver: HTTPServer, adapter: Path, fetch: Fetch) -> None:
        httpserver.expect_request(any_below("/adapters/")).respond_with_handler(Objects(adapter).answer)
        assert content(fetch(f"{place}/safety", place)) == content(adapter)

    def test_a_cut_connection_goes_on_by_a_range(
        self, place: str, httpserver: HTTPServer, adapter: Path, fetch: Fetch
    ) -> None:
        objects = Objects(adapter, cut=1)
        httpserver.expect_request(any_below("/adapters/")).respond_with_handler(objects.answer)
        assert content(fetch(f"{place}/safety", place)) == content(adapter)
        assert any(request.headers.get("Range", "").startswith("bytes=1") for request in objects.requests)

    def test_what_is_replaced_while_it_is_read_is_never_mixed(
        self, place: str, httpserver: HTTPServer, adapter: Path, fetch: Fetch, tmp_path: Path
    ) -> None:
        objects = Objects(adapter, cut=1)
        objects.on_cut = lambda: objects.files.update({WEIGHTS: LARGE[::-1]})
        httpserver.expect_request(any_below("/adapters/")).respond_with_handler(objects.answer)
        fetcher = SourceFetcher(SourcePolicy.of([place]), lambda: _new(tmp_path / "stage"))
        assert (fetcher.fetch(f"{place}/safety") / WEIGHTS).read_bytes() == LARGE[::-1]

    def test_a_refusal_is_said_without_credentials(
        self, place: str, httpserver: HTTPServer, tmp_path: Path, fetch: Fetch
    ) -> None:
        httpserver.expect_request(any_below("/adapters/")).respond_with_data("hidden", status=403)
        with pytest.raises(AdapterSourceError, match="may not be read with the credentials") as caught:
            fetch(f"{place}/safety", place)
        assert "hidden" not in str(caught.value)
        assert left(tmp_path) == []


class Objects:
    """Answers for a folder's files as an object store does: entity tags, times, ranges.

    Args:
        folder: what is there.
        cut: how many answers of more than 1 MiB end after that much of them.

    Attributes:
        on_cut: called when one does.
        has_ranges: whether a part of a file can be asked for.
    """

    def __init__(self, folder: Path, cut: int = 0) -> None:
        self.files = {path.name: path.read_bytes() for path in folder.iterdir()}
        self.requests: list[Request] = []
        self.cut = cut
        self.on_cut: Callable[[], None] = lambda: None
        self.has_ranges = True

    def answer(self, request: Request) -> Response:
        self.requests.append(request)
        data = self.files.get(request.path.rpartition("/")[2])
        if data is None:
            return Response(status=404)
        return self.content(request, data, {"ETag": f'"{hashlib.sha1(data).hexdigest()}"'})

    def content(self, request: Request, data: bytes, headers: dict[str, str]) -> Response:
        start = request.range.ranges[0][0] if request.range and self.has_ranges else 0
        sent = data[start:]
        headers = {"Last-Modified": "Thu, 26 Nov 2026 13:00:00 GMT"} | headers
        if request.range and self.has_ranges:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        cut = self.cut > 0 and request.method == "GET" and len(sent) > MIB
        self.cut -= cut
        if cut:
            self.on_cut()
        # Less than was said: the connection ends early.
        body = iter([sent[:MIB]]) if cut else sent
        return Response(
            body, 206 if request.range and self.has_ranges else 200, headers | {"Content-Length": str(len(sent))}
        )


def any_below(prefix: str) -> re.Pattern[str]:
    return re.compile(re.escape(prefix) + ".*")


def _new(root: Path) -> Path:
    folder = root / str(len(os.listdir(root)))
    folder.mkdir()
    return folder


class Hub(Objects):
    """A hub over HTTP: the repository ``ibm/lib`` with an adapter's files, in one commit."""

    COMMIT = "c" * 40

    def __init__(self, server: HTTPServer, adapter: Path) -> None:
        super().__init__(adapter)
        self.server = server
        self.location = ""
        server.expect_request(any_below("/ibm/lib/resolve/")).respond_with_handler(self._resolve)
        # As a signed address does: it is for GET alone.
        server.expect_request(any_below("/cdn/"), method="GET").respond_with_handler(self.answer)

    def _resolve(self, request: Request) -> Response:
        self.requests.append(request)
        name = request.path.rpartition("/")[2]
        if name not in self.files:
            return Response(status=404, headers={"X-Error-Code": "EntryNotFound"})
        headers = {"X-Repo-Commit": self.COMMIT, "ETag": f'"{hashlib.sha1(self.files[name]).hexdigest()}"'}
        if name != WEIGHTS:
            return self.content(request, self.files[name], headers)
        linked = {
            "X-Linked-Size": str(len(self.files[name])),
            "X-Linked-ETag": f'"{hashlib.sha256(self.files[name]).hexdigest()}"',
            "Location": self.location or self.server.url_for(f"/cdn/{name}"),
        }
        return Response(status=302, headers=headers | linked)


class TestHub:
    @pytest.fixture
    def hub(self, httpserver: HTTPServer, adapter: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_ENDPOINT", httpserver.url_for(""))
        monkeypatch.setenv("HF_TOKEN", "hf_hidden")
        return Hub(httpserver, adapter)

    def test_all_files_are_of_the_revision_s_commit(self, hub: Hub, adapter: Path, fetch: Fetch) -> None:
        assert content(fetch("hf://ibm/lib/a/lora@v1", "hf://ibm")) == content(adapter)
        revisions = [request.path.split("/")[4] for request in hub.requests if "/resolve/" in request.path]
        assert revisions == ["v1"] + [Hub.COMMIT] * (len(revisions) - 1)

    def test_a_cut_connection_goes_on_by_a_range(self, hub: Hub, adapter: Path, fetch: Fetch) -> None:
        hub.cut = 2
        assert content(fetch("hf://ibm/lib", "hf://ibm")) == content(adapter)
        assert [request.headers["Range"] for request in hub.requests if "Range" in request.headers] == [
            f"bytes={MIB}-", f"bytes={MIB}-", f"bytes={2 * MIB}-", f"bytes={2 * MIB}-",
        ]  # fmt: skip

    def test_a_server_without_ranges_is_read_again(self, hub: Hub, adapter: Path, fetch: Fetch) -> None:
        hub.cut, hub.has_ranges = 1, False
        assert content(fetch("hf://ibm/lib", "hf://ibm")) == content(adapter)

    def test_one_that_stays_cut_leaves_nothing(self, hub: Hub, tmp_path: Path, fetch: Fetch) -> None:
        hub.cut = 100
        with pytest.raises(AdapterSourceError, match="could not be read to its end"):
            fetch("hf://ibm/lib", "hf://ibm", attempts=2)
        assert left(tmp_path) == []

    def test_other_content_than_the_hub_s_digest_is_refused(self, hub: Hub, tmp_path: Path, fetch: Fetch) -> None:
        hub.location = hub.server.url_for(f"/cdn/{CONFIG}")
        hub.files[CONFIG] = LARGE[::-1]
        with pytest.raises(AdapterSourceError, match=r"adapter_config.json has 3145728 bytes"):
            fetch("hf://ibm/lib", "hf://ibm")
        hub.files[CONFIG] = b"{}"
        hub.files["other"] = LARGE[::-1]
        hub.location = hub.server.url_for("/cdn/other")
        with pytest.raises(AdapterSourceError, match=r"adapter_model.safetensors has the SHA-256"):
            fetch("hf://ibm/lib", "hf://ibm")
        assert left(tmp_path) == []

    @pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "169.254.169.254", "localhost"])
    def test_a_redirect_to_a_private_address_is_refused(
        self, hub: Hub, tmp_path: Path, fetch: Fetch, host: str
    ) -> None:
        # Another port than the hub's own: nothing there would be asked.
        hub.location = f"https://{host}:9/latest/meta-data"
        with pytest.raises(AdapterSourceError, match=r"has a private address or no TLS"):
            fetch("hf://ibm/lib", "hf://ibm")
        assert left(tmp_path) == []

    def test_a_redirect_to_a_listed_host_is_followed_without_the_token(
        self, hub: Hub, adapter: Path, fetch: Fetch
    ) -> None:
        port = hub.server.port
        hub.location = f"http://127.0.0.1:{port}/cdn/{WEIGHTS}"
        assert content(fetch("hf://ibm/lib", "hf://ibm", f"https://127.0.0.1:{port}")) == content(adapter)
        with_token = {request.host for request in hub.requests if "Authorization" in request.headers}
        assert with_token == {f"localhost:{port}"}
        assert {request.host for request in hub.requests} > with_token

    def test_endless_redirects_end(self, hub: Hub, httpserver: HTTPServer, fetch: Fetch) -> None:
        hub.location = httpserver.url_for("/again")
        httpserver.expect_request("/again").respond_with_data(status=302, headers={"Location": "/again"})
        with pytest.raises(AdapterSourceError, match=r"redirects more than 5 times"):
            fetch("hf://ibm/lib", "hf://ibm")

    def test_a_repository_that_is_not_there_is_one_error(self, hub: Hub, httpserver: HTTPServer, fetch: Fetch) -> None:
        httpserver.expect_request(any_below("/ibm/none/")).respond_with_data(
            status=404, headers={"X-Error-Code": "RepoNotFound"}
        )
        with pytest.raises(AdapterSourceError, match="the hub answers 404"):
            fetch("hf://ibm/none", "hf://ibm")

    def test_offline_is_said(self, hub: Hub, fetch: Fetch, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        with pytest.raises(AdapterSourceError, match="HF_HUB_OFFLINE"):
            fetch("hf://ibm/lib", "hf://ibm")


class TestArtifacts:
    @pytest.fixture
    def host(self, tmp_path: Path) -> Iterator[str]:
        with oci_registry(tmp_path) as host:
            yield host

    @pytest.fixture
    def reference(self, host: str, adapter: Path) -> str:
        client = OrasClient(hostname=host, insecure=True)
        with contextlib.chdir(adapter):
            client.push(
                target=f"{host}/team/safety:v1",
                files=sorted(os.listdir(adapter)),
                disable_path_validation=True,
            )
        return f"oci://{host}/team/safety:v1"

    def test_a_tag_and_a_digest_are_fetched(
        self, host: str, reference: str, adapter: Path, fetch: Fetch, tmp_path: Path
    ) -> None:
        assert content(fetch(reference, f"oci://{host}/team")) == content(adapter)
        (tmp_path / "stage" / "new").rename(tmp_path / "first")
        answer = httpx.head(
            f"http://{host}/v2/team/safety/manifests/v1",
            headers={"Accept": "application/vnd.oci.image.manifest.v1+json"},
        )
        by_digest = f"oci://{host}/team/safety@{answer.headers['docker-content-digest']}"
        assert content(fetch(by_digest, f"oci://{host}")) == content(adapter)

    @pytest.mark.parametrize("name", ["team/safety:v2", "team/none:v1"])
    def test_what_is_not_there_is_one_error(self, host: str, reference: str, fetch: Fetch, name: str) -> None:
        with pytest.raises(AdapterSourceError, match="is not in the registry"):
            fetch(f"oci://{host}/{name}", f"oci://{host}")

    def test_a_layer_that_was_tampered_with_is_refused(
        self, host: str, reference: str, fetch: Fetch, tmp_path: Path
    ) -> None:
        digest = hashlib.sha256(LARGE).hexdigest()
        blob = next((tmp_path / "registry").rglob(f"{digest}/data"))
        blob.write_bytes(LARGE[::-1])
        with pytest.raises(AdapterSourceError, match=r"adapter_model.safetensors has the SHA-256"):
            fetch(reference, f"oci://{host}")
        assert left(tmp_path) == []

    def test_a_registry_that_is_not_there_is_given_up_soon(self, fetch: Fetch) -> None:
        with pytest.raises(AdapterSourceError, match="the source could not be read to its end"):
            fetch("oci://localhost:9/team/safety:v1", "oci://localhost:9")

    def test_a_public_host_s_private_address_is_refused(self, fetch: Fetch) -> None:
        with pytest.raises(AdapterSourceError, match=r"leads to '127.0.0.1'"):
            fetch("oci://127.0.0.1:9/team/safety:v1", "oci://")


class TestArtifactManifests:
    def test_a_manifest_without_layers_is_refused(self, httpserver: HTTPServer, fetch: Fetch) -> None:
        host = f"localhost:{httpserver.port}"
        for body, reason in (
            ("[]", "not a JSON object"),
            ("{}", "not an artifact"),
            ("x" * 5_000_000, "above 4194304"),
        ):
            httpserver.clear()
            httpserver.expect_request("/v2/team/safety/manifests/v1").respond_with_data(body)
            with pytest.raises(AdapterSourceError, match=reason):
                fetch(f"oci://{host}/team/safety:v1", f"oci://{host}")

    def test_a_manifest_of_another_digest_is_refused(self, httpserver: HTTPServer, fetch: Fetch) -> None:
        host, digest = f"localhost:{httpserver.port}", "sha256:" + "0" * 64
        httpserver.expect_request(f"/v2/safety/manifests/{digest}").respond_with_data('{"layers": []}')
        with pytest.raises(AdapterSourceError, match="has another digest"):
            fetch(f"oci://{host}/safety@{digest}", f"oci://{host}")

    def test_a_registry_that_wants_a_login_is_said(self, httpserver: HTTPServer, fetch: Fetch) -> None:
        host = f"localhost:{httpserver.port}"
        httpserver.expect_request("/v2/safety/manifests/v1").respond_with_data("secret", status=401)
        with pytest.raises(AdapterSourceError, match="Docker config") as caught:
            fetch(f"oci://{host}/safety:v1", f"oci://{host}")
        assert "secret" not in str(caught.value)

    def test_a_login_realm_at_a_private_address_is_not_asked(self, httpserver: HTTPServer, fetch: Fetch) -> None:
        host = f"localhost:{httpserver.port}"
        realm = 'Bearer realm="http://169.254.169.254/latest",service="s",scope="pull"'
        httpserver.expect_request("/v2/safety/manifests/v1").respond_with_data(
            "", status=401, headers={"Www-Authenticate": realm}
        )
        with pytest.raises(AdapterSourceError, match=r"leads to '169.254.169.254'"):
            fetch(f"oci://{host}/safety:v1", f"oci://{host}")
