"""The routes of adapters over a real manager, catalog in memory, check and store: what administrators get."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr
from support.adapter_gateway import AdapterGateway
from support.http_server import serving
from support.peft_adapters import write_peft_adapter

from aloraserve.adapters.management import Usage
from aloraserve.tenants import Role
from aloraserve.tenants.manager import TenantManager

TENANT, ADMIN = "tenant-key-0123456789", "admin-key-0123456789"


@pytest.fixture
def fleet(tmp_path: Path) -> AdapterGateway:
    return AdapterGateway(tmp_path)


@pytest.fixture
async def client(fleet: AdapterGateway) -> AsyncIterator[httpx.AsyncClient]:
    async with fleet.client() as client:
        yield client
    await fleet.manager.close()


async def add(client: httpx.AsyncClient, name: str, source: str, **fields: Any) -> dict[str, Any]:
    answer = await client.post("/v1/adapters", json={"name": name, "source": source, **fields})
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


def refusal(answer: httpx.Response, status: int) -> str:
    assert answer.status_code == status, answer.text
    return str(answer.json()["error"]["message"])


class TestRegistering:
    async def test_an_adapter_is_fetched_checked_stored_and_available(
        self, fleet: AdapterGateway, client: httpx.AsyncClient
    ) -> None:
        source = fleet.write(alora_invocation_tokens=[5, 6])
        entry = await add(client, "safety", source, labels={"team": "a"}, reason="first")
        assert (entry["name"], entry["kind"], entry["rank"], entry["state"]) == ("safety", "alora", 4, "available")
        assert entry["id"] == f"safety@{entry['version'][:12]}"
        assert entry["invocation"]["tokens"] == [5, 6]
        assert entry["labels"] == {"team": "a"}
        assert [step["state"] for step in entry["history"]] == ["registered", "validated", "available"]
        assert fleet.store.has(entry["version"])

    async def test_what_the_check_refuses_leaves_nothing(
        self, fleet: AdapterGateway, client: httpx.AsyncClient, tmp_path: Path
    ) -> None:
        source = fleet.write(r=99)
        answer = await client.post("/v1/adapters", json={"name": "safety", "source": source})
        assert "r 99" in refusal(answer, 400)
        assert refusal(await client.get("/v1/adapters/safety"), 404)
        assert not [path for path in (tmp_path / "store").iterdir() if path.is_dir()]

    @pytest.mark.parametrize(
        ("body", "reason"),
        [
            ({"name": "safety"}, "source"),
            ({"name": "safety", "source": "/etc"}, "adapter_sources"),
            ({"name": "safety", "source": "s3://bucket/a"}, "adapter_sources"),
            ({"name": "safety", "source": "ftp://host/a"}, "scheme"),
            ({"name": "base", "source": "/a"}, "base model"),
            ({"name": "a b", "source": "/a"}, "name"),
            ({"name": "safety", "source": "/a", "visibility": "private"}, "owner"),
            ({"name": "safety", "source": "/a", "visibility": "all"}, "'visibility' (\"all\") should be 'public' or"),
            ({"name": "safety", "source": "/a", "weights_sha256": "12"}, "'weights_sha256' (\"12\") should be 64 hex"),
            ({"name": "safety", "source": "/a", "weights_sha256": "0" * 64 + "\n"}, "should be 64 hex digits"),
            ({"name": "safety", "source": "/a", "labels": {str(i): "a" for i in range(65)}}, "at most 64 entries"),
            ({"name": "safety", "source": "/a", "labels": {"loading": "pined"}}, "'pined'; preloaded and pinned are"),
            ({"name": "safety", "source": "/a", "reason": "a\x1b[31m"}, "reason is 'a\\x1b[31m'"),
            ({"name": "safety", "source": "/a", "force": True}, "force"),
        ],
    )
    async def test_a_wrong_request_is_refused_by_name(
        self, client: httpx.AsyncClient, body: dict[str, Any], reason: str
    ) -> None:
        assert reason in refusal(await client.post("/v1/adapters", json=body), 400)

    async def test_progress_comes_as_events_and_ends_with_the_entry(self, fleet: AdapterGateway) -> None:
        body = {"name": "safety", "source": fleet.write(), "stream": True}
        async with serving(fleet.routes) as served:
            url = f"http://localhost:{served.port}"
            async with (
                httpx.AsyncClient(base_url=url) as client,
                client.stream("POST", "/v1/adapters", json=body) as answer,
            ):
                events = [json.loads(line[6:]) async for line in answer.aiter_lines() if line.startswith("data: ")]
        assert events[0]["stage"] == "fetching"
        assert (events[-1]["stage"], events[-1]["entry"]["state"]) == ("done", "available")
        assert events[-1]["bytes_done"] == events[-1]["bytes_total"] > 0
        assert events[-1]["report"]["accepted"]

    async def test_events_of_one_that_is_refused_end_with_the_report(
        self, fleet: AdapterGateway, client: httpx.AsyncClient
    ) -> None:
        body = {"name": "safety", "source": fleet.write(r=99), "stream": True}
        text = (await client.post("/v1/adapters", json=body)).text
        last = json.loads(text.strip().rpartition("data: ")[2])
        assert last["stage"] == "failed"
        assert last["error"]["message"] == last["error"]["message"]
        assert {problem["code"] for problem in last["report"]["problems"]} >= {"config"}
        assert last["entry"] is None


class TestChecking:
    async def test_all_problems_are_reported_and_nothing_is_kept(
        self, fleet: AdapterGateway, client: httpx.AsyncClient, tmp_path: Path
    ) -> None:
        source = fleet.write(r=99, lora_alpha="x", use_dora=True)
        report = (await client.post("/v1/adapter-checks", json={"name": "safety", "source": source})).json()
        assert not report["accepted"]
        assert len(report["problems"]) >= 3
        assert all(problem["text"] for problem in report["problems"])
        assert not [path for path in (tmp_path / "store").iterdir() if path.is_dir()]

    async def test_a_good_one_is_accepted_with_its_facts(
        self, fleet: AdapterGateway, client: httpx.AsyncClient
    ) -> None:
        report = (await client.post("/v1/adapter-checks", json={"name": "safety", "source": fleet.write()})).json()
        assert report["accepted"]
        assert (report["facts"]["kind"], report["facts"]["rank"], report["problems"]) == ("lora", 4, [])
        assert refusal(await client.get("/v1/adapters/safety"), 404)


class TestListing:
    async def test_pages_filters_and_places(self, fleet: AdapterGateway, client: httpx.AsyncClient) -> None:
        for number, name in enumerate(("alpha", "beta", "beta2")):
            labels = {"team": "a" if number else "b"}
            await add(client, name, fleet.write(name, weight=number + 1.0), labels=labels)
        both = ("engine-0", "engine-1")
        fleet.places.of_name["beta"] = Usage(loaded=both, calling=both[:1], slotted=both[:1])
        first = (await client.get("/v1/adapters", params={"limit": 2})).json()
        rest = (await client.get("/v1/adapters", params={"limit": 2, "after": first["next"]})).json()
        assert [entry["name"] for entry in first["data"] + rest["data"]] == ["alpha", "beta", "beta2"]
        assert rest["next"] == ""
        assert [entry["loaded"] for entry in first["data"]] == [[], ["engine-0", "engine-1"]]
        assert [entry["slotted"] for entry in first["data"]] == [[], ["engine-0"]]
        for query, names in (
            ({"prefix": "beta"}, ["beta", "beta2"]),
            ({"label": "team=b"}, ["alpha"]),
            ({"kind": "alora"}, []),
            ({"state": "retired"}, []),
            ({"owner": "nobody"}, []),
        ):
            found = (await client.get("/v1/adapters", params=query)).json()["data"]
            assert [entry["name"] for entry in found] == names

    @pytest.mark.parametrize(
        "query",
        [
            {"limit": "0"},
            {"limit": "x"},
            {"kind": "dora"},
            {"state": "gone"},
            {"label": "a"},
            {"page": "2"},
            {"after": "x"},
        ],
    )
    async def test_a_wrong_query_is_refused_by_name(self, client: httpx.AsyncClient, query: dict[str, str]) -> None:
        assert next(iter(query)) in refusal(await client.get("/v1/adapters", params=query), 400)

    async def test_a_parameter_that_is_there_twice_is_refused_unless_it_may_be(self, client: httpx.AsyncClient) -> None:
        assert "'limit' is in the query twice" in refusal(await client.get("/v1/adapters?limit=1&limit=2"), 400)
        assert (await client.get("/v1/adapters?label=a=b&label=c=d")).status_code == 200


class TestAliases:
    @pytest.fixture
    async def versions(self, fleet: AdapterGateway, client: httpx.AsyncClient) -> list[str]:
        return [(await add(client, "safety", fleet.write(weight=weight)))["id"] for weight in (1.0, 2.0)]

    async def aliases(self, client: httpx.AsyncClient) -> dict[str, list[str]]:
        found = (await client.get("/v1/adapters/safety/aliases")).json()["data"]
        return {alias["id"]: [share["version"][:12] for share in alias["shares"]] for alias in found}

    async def test_one_is_set_canaried_rolled_back_and_removed(
        self, client: httpx.AsyncClient, versions: list[str]
    ) -> None:
        first, second = versions
        digits = [version.partition("@")[2] for version in versions]
        path = "/v1/adapters/safety/aliases/prod"
        assert (await client.put(path, json={"target": first})).status_code == 200
        assert (await client.put(path, json={"target": second, "share": 0.25})).status_code == 200
        assert await self.aliases(client) == {"safety": [digits[1]], "safety@prod": digits}
        assert (await client.put(path, json={"target": second, "reason": "good"})).status_code == 200
        assert (await client.post(f"{path}/rollback", json={})).status_code == 200
        assert (await self.aliases(client))["safety@prod"] == digits
        assert (await client.delete(path)).status_code == 200
        assert await self.aliases(client) == {"safety": [digits[1]]}

    async def test_what_is_not_there_and_what_does_not_fit_is_said(
        self, client: httpx.AsyncClient, versions: list[str]
    ) -> None:
        path = "/v1/adapters/safety/aliases"
        assert refusal(await client.put(f"{path}/prod", json={"target": "safety@" + "0" * 12}), 404)
        assert refusal(await client.put(f"{path}/prod", json={"target": "other"}), 400)
        assert refusal(await client.put(f"{path}/prod", json={"target": versions[0], "share": 2}), 400)
        assert refusal(await client.post(f"{path}/none/rollback", json={"reason": "x"}), 404)
        assert refusal(await client.get("/v1/adapters/none/aliases"), 404)
        assert refusal(await client.post(f"{path}/prod"), 405)


class TestTheEnd:
    async def test_a_retired_one_is_deleted_and_its_files_are_released(
        self, fleet: AdapterGateway, client: httpx.AsyncClient, tmp_path: Path
    ) -> None:
        entry = await add(client, "safety", fleet.write())
        assert "points to it" in refusal(await client.delete("/v1/adapters/safety"), 409)
        retired = (await client.post("/v1/adapters/safety/retire", json={"reason": "old"})).json()
        assert [(each["state"], each["reason"]) for each in retired["versions"]] == [("retired", "old")]
        references = tmp_path / "store" / ".references"
        assert [path.name for path in references.glob("*/*")] == [entry["version"]]
        assert (await client.delete("/v1/adapters/safety?reason=gone")).json()["versions"] == []
        assert list(references.glob("*/*")) == []
        assert refusal(await client.get(f"/v1/adapters/{entry['id']}"), 404)

    @pytest.mark.parametrize("reason", ["a\x1b[31m", "a\nb", "\u202e", "x" * 301])
    async def test_no_change_takes_a_reason_that_a_terminal_cannot_show(
        self, fleet: AdapterGateway, client: httpx.AsyncClient, reason: str
    ) -> None:
        entry, path = await add(client, "safety", fleet.write()), "/v1/adapters/safety"
        body = {"reason": reason}
        for answer in (
            await client.post(f"{path}/retire", json=body),
            await client.put(f"{path}/aliases/prod", json=body | {"target": entry["id"]}),
            await client.put(f"{path}/aliases/prod", json=body | {"target": entry["id"], "share": 0.5}),
            await client.post(f"{path}/aliases/current/rollback", json=body),
            await client.delete(path, params=body | {"force": "true"}),
        ):
            assert "reason" in refusal(answer, 400)
        assert (await client.get(path)).json()["versions"][0]["state"] == "available"

    async def test_one_that_runs_is_deleted_by_force_alone(
        self, fleet: AdapterGateway, client: httpx.AsyncClient
    ) -> None:
        entry = await add(client, "safety", fleet.write())
        fleet.places.of_name["safety"] = Usage(calling=("engine-1",))
        await client.post("/v1/adapters/safety/retire", json={})
        assert "engine-1" in refusal(await client.delete(f"/v1/adapters/{entry['id']}"), 409)
        assert "force" in refusal(await client.delete("/v1/adapters/safety?force=yes"), 400)
        assert (await client.delete("/v1/adapters/safety?force=true")).status_code == 200

    async def test_content_that_another_name_has_too_stays_referred_to(
        self, fleet: AdapterGateway, client: httpx.AsyncClient, tmp_path: Path
    ) -> None:
        source = fleet.write()
        version = (await add(client, "safety", source))["version"]
        await add(client, "copy", source)
        await client.delete("/v1/adapters/safety?force=true")
        assert [path.name for path in (tmp_path / "store" / ".references").glob("*/*")] == [version]


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        (("versions", 0, "history", 0, "reason"), "\x1b[2J", "reason"),
        (("aliases", "current", "reason"), "\x1b[2J", "reason"),
        (("versions", 0, "source"), "\x1b[2J", "text"),
        (("versions", 0, "targets", 0), "\x1b[2J", "text"),
    ],
)
async def test_a_catalog_with_what_a_terminal_cannot_show_stays_out(
    fleet: AdapterGateway, client: httpx.AsyncClient, path: tuple[str | int, ...], value: str, named: str
) -> None:
    await add(client, "safety", fleet.write(), reason="plain")
    catalog = (await client.get("/v1/adapter-catalog")).json()
    await client.delete("/v1/adapters/safety?force=true")
    *above, last = path
    part = catalog["records"][0]["record"]
    for step in above:
        part = part[step]
    part[last] = value
    answer = await client.post("/v1/adapter-catalog", json=catalog)
    assert f"{named} " in refusal(answer, 400)
    assert "'\\x1b[2J'" in refusal(answer, 400)


async def test_a_catalog_goes_out_and_comes_back(fleet: AdapterGateway, client: httpx.AsyncClient) -> None:
    await add(client, "safety", fleet.write(), alias="prod")
    file = await client.get("/v1/adapter-catalog")
    assert "safety" in refusal(await client.post("/v1/adapter-catalog", json=file.json()), 409)
    skipped = await client.post("/v1/adapter-catalog?skip_existing=true", json=file.json())
    assert skipped.json() == {"imported": [], "skipped": ["safety"]}
    await client.delete("/v1/adapters/safety?force=true")
    imported = await client.post("/v1/adapter-catalog", json=file.json())
    assert imported.json() == {"imported": ["safety"], "skipped": []}
    record = (await client.get("/v1/adapters/safety")).json()
    assert [alias["id"] for alias in record["aliases"]] == ["safety", "safety@prod"]
    assert refusal(await client.post("/v1/adapter-catalog", json={"format": "other"}), 400)
    refused = await client.post("/v1/adapter-catalog", content=b"{}", headers={"Content-Type": "text/plain"})
    assert refused.status_code == 415


@pytest.mark.parametrize(("key", "status"), [(None, 401), ("nobody-s-key-0123456789", 401), (TENANT, 403)])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/adapters"),
        ("POST", "/v1/adapters"),
        ("GET", "/v1/adapters/safety"),
        ("DELETE", "/v1/adapters/safety"),
        ("POST", "/v1/adapters/safety/retire"),
        ("GET", "/v1/adapters/safety/aliases"),
        ("PUT", "/v1/adapters/safety/aliases/prod"),
        ("DELETE", "/v1/adapters/safety/aliases/prod"),
        ("POST", "/v1/adapters/safety/aliases/prod/rollback"),
        ("POST", "/v1/adapter-checks"),
        ("GET", "/v1/adapter-catalog"),
        ("POST", "/v1/adapter-catalog"),
        ("POST", "/v1/load_lora_adapter"),
        ("POST", "/v1/unload_lora_adapter"),
    ],
)
async def test_every_route_is_for_administrators(
    tmp_path: Path, method: str, path: str, key: str | None, status: int
) -> None:
    fleet = AdapterGateway(tmp_path, api_keys={"acme": SecretStr(TENANT)}, admin_keys={"root": SecretStr(ADMIN)})
    async with fleet.client(key) as client:
        assert (await client.request(method, path, json={})).status_code == status
    async with fleet.client(ADMIN) as client:
        assert (await client.request(method, path, json={})).status_code not in (401, 403)


@pytest.mark.parametrize(
    "path",
    [
        "/v1/adapters",
        "/v1/adapter-checks",
        "/v1/adapter-catalog",
        "/v1/adapters/safety/retire",
        "/v1/adapters/safety/aliases/prod/rollback",
        "/v1/load_lora_adapter",
        "/v1/unload_lora_adapter",
    ],
)
@pytest.mark.parametrize("headers", [{}, {"Content-Type": "text/plain"}])
async def test_a_web_page_of_another_site_changes_nothing(
    client: httpx.AsyncClient, path: str, headers: dict[str, str]
) -> None:
    """A browser sends such a request without asking first."""
    assert (await client.post(path, headers=headers)).status_code == 415


class TestVllmsRoutes:
    """Same bodies and answers as ``vllm/entrypoints/openai/models/serving.py``."""

    async def load(self, client: httpx.AsyncClient, path: str, **fields: Any) -> httpx.Response:
        return await client.post("/v1/load_lora_adapter", json={"lora_name": "safety", "lora_path": path, **fields})

    async def test_an_adapter_is_loaded_replaced_in_place_and_unloaded(
        self, fleet: AdapterGateway, client: httpx.AsyncClient
    ) -> None:
        answer = await self.load(client, fleet.write())
        assert (answer.status_code, answer.text) == (200, "Success: LoRA adapter 'safety' added successfully.")
        again = await self.load(client, fleet.write())
        assert again.json() == {
            "error": {
                "message": "The lora adapter 'safety' has already been loaded. If you want to load the adapter in "
                "place, set 'load_inplace' to True.",
                "type": "InvalidUserInput",
                "param": None,
                "code": 400,
            }
        }
        assert again.status_code == 400
        first = (await client.get("/v1/adapters/safety")).json()["versions"][0]["version"]
        assert (await self.load(client, fleet.write(weight=2.0), load_inplace=True)).status_code == 200
        assert (await self.load(client, fleet.write(), load_inplace=True, is_3d_lora_weight=False)).status_code == 200
        [current] = (await client.get("/v1/adapters/safety/aliases")).json()["data"]
        assert [share["version"] for share in current["shares"]] == [first]
        body = {"lora_name": "safety", "lora_int_id": 7}
        gone = await client.post("/v1/unload_lora_adapter", json=body)
        assert (gone.status_code, gone.text) == (200, "Success: LoRA adapter 'safety' removed successfully.")
        missing = await client.post("/v1/unload_lora_adapter", json=body)
        assert missing.status_code == missing.json()["error"]["code"] == 404
        assert missing.json()["error"]["message"] == "The lora adapter 'safety' cannot be found."
        assert missing.json()["error"]["type"] == "NotFoundError"
        assert (await self.load(client, fleet.write())).status_code == 200

    @pytest.mark.parametrize(
        ("body", "message"),
        [
            ({"lora_name": "", "lora_path": "/a"}, "Both 'lora_name' and 'lora_path' must be provided."),
            ({"lora_name": "a", "lora_path": ""}, "Both 'lora_name' and 'lora_path' must be provided."),
            ({"lora_name": "base", "lora_path": "/a"}, "The lora adapter 'base' conflicts with a served base model."),
        ],
    )
    async def test_its_refusals_are_the_same(
        self, client: httpx.AsyncClient, body: dict[str, str], message: str
    ) -> None:
        answer = await client.post("/v1/load_lora_adapter", json=body)
        assert (answer.status_code, answer.json()["error"]["message"]) == (400, message)

    async def test_what_is_not_there_or_not_accepted_is_said(
        self, fleet: AdapterGateway, client: httpx.AsyncClient
    ) -> None:
        missing = await self.load(client, str(fleet.root / "none"))
        assert (missing.status_code, missing.json()["error"]["type"]) == (404, "NotFoundError")
        assert "is not a folder" in missing.json()["error"]["message"]
        (fleet.root / "empty").mkdir()
        empty = await self.load(client, str(fleet.root / "empty"))
        assert (empty.status_code, "is missing" in empty.text) == (404, True)
        refused = await self.load(client, fleet.write(r=99))
        assert (refused.status_code, refused.json()["error"]["type"]) == (400, "InvalidUserInput")
        assert "r 99" in refused.json()["error"]["message"]
        hub = await self.load(client, "owner/repository")
        assert "hf://owner/repository is not allowed" in hub.json()["error"]["message"]


async def test_two_registrations_of_a_name_at_once_end_clearly(
    fleet: AdapterGateway, client: httpx.AsyncClient
) -> None:
    sources = [fleet.write(str(number), weight=number + 1.0) for number in range(3)]
    bodies = [{"name": "safety", "source": source} for source in sources]
    answers = await asyncio.gather(*(client.post("/v1/adapters", json=body) for body in bodies))
    assert sorted(answer.status_code for answer in answers) == [201, 409, 409]
    assert len((await client.get("/v1/adapters/safety")).json()["versions"]) == 1


class TestTenantsAdapters:
    """A key with the role ``adapters`` manages what is its tenant's, and meets nobody else's."""

    @pytest.fixture
    async def keys(self, fleet: AdapterGateway) -> dict[str, str]:
        live = fleet.tenants
        manager = TenantManager(fleet.tenant_store, live.view, fleet.pepper, on_change=live.catch_up)
        made = {name: await manager.create_key(name, [Role.ADAPTERS]) for name in ("acme", "other")}
        made["admin"] = await manager.create_key(None, [Role.ADMIN])
        return {name: new.text for name, new in made.items()}

    @pytest.fixture
    def source(self, fleet: AdapterGateway) -> str:
        (fleet.root / "tenants").mkdir()
        return str(write_peft_adapter(fleet.root / "tenants" / "safety"))

    async def test_what_a_tenant_registers_is_its_own_and_private(
        self, fleet: AdapterGateway, keys: dict[str, str], source: str
    ) -> None:
        async with fleet.client(keys["acme"]) as acme, fleet.client(keys["other"]) as other:
            made = await acme.post("/v1/adapters", json={"name": "acme.safety", "source": source})
            assert (made.status_code, made.json()["owner"], made.json()["visibility"]) == (201, "acme", "private")
            assert [entry["name"] for entry in (await acme.get("/v1/adapters")).json()["data"]] == ["acme.safety"]
            assert (await other.get("/v1/adapters")).json()["data"] == []
            absent = refusal(await other.get("/v1/adapters/absent"), 404).replace("absent", "acme.safety")
            for method, path in (
                ("GET", "/v1/adapters/acme.safety"),
                ("DELETE", "/v1/adapters/acme.safety?force=true"),
                ("POST", "/v1/adapters/acme.safety/retire"),
                ("GET", "/v1/adapters/acme.safety/aliases"),
                ("PUT", "/v1/adapters/acme.safety/aliases/prod"),
            ):
                body = {"target": "acme.safety"} if method == "PUT" else {}
                assert refusal(await other.request(method, path, json=body), 404) == absent
            assert (await acme.post("/v1/adapters/acme.safety/retire", json={})).status_code == 200
            assert (await acme.delete("/v1/adapters/acme.safety")).status_code == 200

    async def test_a_tenant_cannot_touch_the_platforms_own(
        self, fleet: AdapterGateway, keys: dict[str, str], source: str
    ) -> None:
        async with fleet.client(keys["admin"]) as admin, fleet.client(keys["acme"]) as acme:
            body = {"name": "safety", "source": fleet.write()}
            assert (await admin.post("/v1/adapters", json=body)).json()["visibility"] == "public"
            assert (await acme.delete("/v1/adapters/safety?force=true")).status_code == 404
            taken = refusal(await acme.post("/v1/adapters", json={"name": "safety", "source": source}), 400)
            assert "accepted is acme.NAME" in taken

    async def test_a_refused_name_says_nothing_of_other_tenants(
        self, fleet: AdapterGateway, keys: dict[str, str], source: str
    ) -> None:
        async with fleet.client(keys["other"]) as other, fleet.client(keys["acme"]) as acme:
            made = await other.post("/v1/adapters", json={"name": "other.safety", "source": source})
            assert made.status_code == 201
            said = {
                name: refusal(await acme.post("/v1/adapters", json={"name": name, "source": source}), 400)
                for name in ("other.safety", "other.absent", "acme.other.safety", "safety", ".safety", "acme.")
            }
            assert {text.replace(name, "") for name, text in said.items() if "safety" in name[1:]} == {
                said["other.absent"].replace("other.absent", "")
            }

    async def test_an_administrator_s_name_for_a_tenant_is_in_nobody_else_s_space(
        self, fleet: AdapterGateway, keys: dict[str, str], source: str
    ) -> None:
        async with fleet.client(keys["admin"]) as admin, fleet.client(keys["acme"]) as acme:
            body = {"name": "other.safety", "source": fleet.write(), "owner": "acme", "visibility": "private"}
            assert "tenant 'other' alone" in refusal(await admin.post("/v1/adapters", json=body), 400)
            assert (await admin.post("/v1/adapters", json=body | {"name": "safety"})).status_code == 201
            again = refusal(await acme.post("/v1/adapters", json={"name": "safety", "source": source}), 409)
            assert "is in the catalog already" in again, "its own name may be one without its space"

    async def test_a_tenant_has_a_quota(self, fleet: AdapterGateway, keys: dict[str, str], source: str) -> None:
        async with fleet.client(keys["acme"]) as acme:
            for name in ("acme.one", "acme.two"):
                assert (await acme.post("/v1/adapters", json={"name": name, "source": source})).status_code == 201
            third = await acme.post("/v1/adapters", json={"name": "acme.three", "source": source})
            assert "has 2 versions of adapters" in refusal(third, 409)

    @pytest.mark.parametrize(
        ("fields", "status", "reason"),
        [
            ({"visibility": "public"}, 403, "visibility is public"),
            ({"owner": "other"}, 403, "owner is another tenant"),
            ({"source": "/etc"}, 400, "adapter_sources"),
        ],
    )
    async def test_what_needs_an_administrator_is_refused(
        self, fleet: AdapterGateway, keys: dict[str, str], source: str, fields: dict[str, str], status: int, reason: str
    ) -> None:
        async with fleet.client(keys["acme"]) as acme:
            body = {"name": "acme.safety", "source": source} | fields
            assert reason in refusal(await acme.post("/v1/adapters", json=body), status)
            assert (await acme.get("/v1/adapter-catalog")).status_code == 403
            assert (await acme.get("/v1/adapters?owner=other")).status_code == 403

    async def test_sources_of_administrators_are_not_a_tenants(
        self, fleet: AdapterGateway, keys: dict[str, str]
    ) -> None:
        async with fleet.client(keys["acme"]) as acme:
            body = {"name": "acme.safety", "source": fleet.write()}
            for path in ("/v1/adapters", "/v1/adapter-checks"):
                assert "adapter_sources" in refusal(await acme.post(path, json=body), 400)

    async def test_an_owner_has_to_be_a_tenant(self, fleet: AdapterGateway, keys: dict[str, str]) -> None:
        async with fleet.client(keys["admin"]) as admin:
            body = {"name": "safety", "source": fleet.write(), "owner": "nobody", "visibility": "private"}
            assert "owner is 'nobody'" in refusal(await admin.post("/v1/adapters", json=body), 400)
            assert (await admin.post("/v1/adapters", json=body | {"owner": "acme"})).status_code == 201
