"""``aloraserve adapters`` against the routes over a real manager, check and store, on a real HTTP server."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from structlog.testing import capture_logs
from support.adapter_gateway import AdapterGateway
from support.chat_tokenizers import chat_tokenizer, plain_ids
from support.http_server import serving
from support.peft_adapters import write_peft_adapter
from typer.testing import CliRunner

from aloraserve.adapters.management import Usage
from aloraserve_services.cli import local_check
from aloraserve_services.cli.main import app

Run = Callable[..., Result]


@pytest.fixture
def fleet(tmp_path: Path) -> AdapterGateway:
    return AdapterGateway(tmp_path)


@pytest.fixture
def url(fleet: AdapterGateway) -> Iterator[str]:
    """The platform's address; it runs in a thread with an event loop of its own."""
    found: list[str] = []
    is_ready, is_over = threading.Event(), threading.Event()

    async def serve() -> None:
        async with serving(fleet.routes) as served:
            found.append(f"http://127.0.0.1:{served.port}")
            is_ready.set()
            await asyncio.to_thread(is_over.wait)
        await fleet.manager.close()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    # The platform's log would be in the commands' output.
    with capture_logs():
        thread.start()
        assert is_ready.wait(10)
        yield found[0]
        is_over.set()
        thread.join()


@pytest.fixture
def run(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command of ``aloraserve adapters`` on a wide terminal's width, without a terminal."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("ALORASERVE_STATE_DIR", str(tmp_path / "state"))

    def invoke(*words: str, code: int = 0) -> Result:
        result = CliRunner().invoke(app, ["adapters", *words, "--url", url])
        assert result.exit_code == code, result.output + result.stderr
        return result

    return invoke


def as_json(result: Result) -> Any:
    return json.loads(result.stdout)


def test_an_adapter_is_added_listed_and_shown(fleet: AdapterGateway, run: Run) -> None:
    source = fleet.write(alora_invocation_tokens=[5, 6])
    added = run("add", "safety", source, "--label", "team=a", "--reason", "first").stdout.splitlines()
    assert added[0] == f"fetching {source}"
    assert added[-1].startswith("registered safety@")
    fleet.places.of_name["safety"] = Usage(loaded=("engine-0",))
    listed = run("ls").stdout
    for text in ("safety@", "available", "alora", "engine-0", "team=a"):
        assert text in listed
    shown = run("show", "safety").stdout
    assert "tokens [5, 6]" in shown
    assert "registered: first" in shown
    assert as_json(run("ls", "saf", "--json"))[0]["name"] == "safety"
    assert as_json(run("ls", "--state", "retired", "--json")) == []


def test_what_other_commands_take_is_whole_on_a_narrow_terminal(
    fleet: AdapterGateway, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = fleet.write(alora_invocation_tokens=[5, 6])
    entry = as_json(run("add", "safety-of-questions", source, "--label", "team=search", "--alias", "prod", "--json"))
    fleet.places.of_name["safety-of-questions"] = Usage(loaded=("engine-0", "engine-1"))
    monkeypatch.setenv("COLUMNS", "80")
    assert entry["entry"]["id"] in run("ls").stdout
    assert "safety-of-questions@prod" in run("alias", "safety-of-questions").stdout


def test_a_folder_may_be_named_from_where_one_is(
    fleet: AdapterGateway, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet.write("mine")
    monkeypatch.chdir(fleet.root)
    assert as_json(run("add", "safety", "./mine", "--json"))["stage"] == "done"


def test_one_that_is_refused_is_shown_with_all_its_problems(fleet: AdapterGateway, run: Run) -> None:
    source = fleet.write(r=99, use_dora=True)
    for words in (("add", "safety", source), ("validate", source)):
        result = run(*words, code=1)
        assert "not accepted" in result.stdout
        assert "has r 99" in result.stdout
        assert "use_dora" in result.stdout
    outcome = as_json(run("add", "safety", source, "--json", code=1))
    assert (outcome["stage"], outcome["report"]["accepted"]) == ("failed", False)
    assert "is not in the catalog" in run("show", "safety", code=1).stderr


def test_a_source_that_is_not_allowed_is_one_line(run: Run) -> None:
    result = run("add", "safety", "hf://owner/repository", code=1)
    assert result.stderr.startswith("error: the source hf://owner/repository is not allowed here")
    assert len(result.stderr.splitlines()) == 1


def test_aliases_are_pointed_rolled_back_and_removed(fleet: AdapterGateway, run: Run) -> None:
    first, second = (
        as_json(run("add", "safety", fleet.write(weight=weight), "--json"))["entry"]["id"] for weight in (1.0, 2.0)
    )
    run("alias", "safety@prod", first)
    assert "75%" in run("alias", "safety@prod", second, "--share", "0.25").stdout
    run("alias", "safety@prod", second)
    aliases = {alias["id"]: alias for alias in as_json(run("rollback", "safety@prod", "--json"))}
    assert len(aliases["safety@prod"]["shares"]) == 2
    assert "safety@prod" in run("alias", "safety").stdout
    run("alias", "safety@prod", "--remove")
    assert "safety@prod" not in run("alias", "safety").stdout
    assert "exclude each other" in run("alias", "safety@prod", first, "--remove", code=2).stderr


def test_the_end_of_an_adapter(fleet: AdapterGateway, run: Run) -> None:
    run("add", "safety", fleet.write())
    assert "points to it" in run("rm", "safety", code=1).stderr
    assert "retired" in run("retire", "safety", "--reason", "old").stdout
    assert "nothing is left of safety" in run("rm", "safety").stdout
    run("add", "safety", fleet.write())
    run("rm", "safety", "--force")


def test_a_catalog_goes_to_a_file_and_comes_back(fleet: AdapterGateway, run: Run, tmp_path: Path) -> None:
    run("add", "safety", fleet.write())
    file = str(tmp_path / "catalog.json")
    assert "written to" in run("export", file).stdout
    assert "safety already" in run("import", file, code=1).stderr
    assert "imported 0 names, skipped 1" in run("import", file, "--skip-existing").stdout
    run("rm", "safety", "--force")
    assert as_json(run("import", file, "--json")) == {"imported": ["safety"], "skipped": []}


class TestWithoutAPlatform:
    @pytest.fixture
    def model(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
        """A model's folder with its shape and a small tokenizer, which this returns."""
        tokenizer = chat_tokenizer()
        tokenizer.save_pretrained(tmp_path / "model")
        shape = {
            "num_hidden_layers": 2, "hidden_size": 8, "intermediate_size": 12, "num_attention_heads": 2,
            "num_key_value_heads": 1, "head_dim": 4, "vocab_size": 1000, "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
        }  # fmt: skip
        (tmp_path / "model" / "config.json").write_text(json.dumps(shape))
        monkeypatch.setattr(local_check, "resolve_model", lambda *_: ("base", tmp_path / "model"))
        return tokenizer

    def validate(self, source: Path, *words: str) -> Result:
        state = ["--state-dir", str(source.parent / "state")]
        return CliRunner().invoke(app, ["adapters", "validate", str(source), *state, *words])

    def test_an_adapter_is_checked_here(self, model: Any, tmp_path: Path) -> None:
        for config, code in (({}, 0), ({"r": 99}, 1)):
            result = self.validate(write_peft_adapter(tmp_path / "safety", **config), "--json")
            assert result.exit_code == code, result.output + result.stderr
            assert as_json(result)["accepted"] is (code == 0)

    def test_an_alora_is_shown_where_it_acts(self, model: Any, tmp_path: Path) -> None:
        ids = list(plain_ids(model, "<|start|>safety\n"))
        source = write_peft_adapter(tmp_path / "safety", alora_invocation_tokens=ids)
        report = as_json(self.validate(source, "--json"))
        assert [token["id"] for token in report["activation"]["after"]] == ids
        assert report["activation"]["activation"] == report["activation"]["prompt_tokens"] - len(ids)
        assert "acts from token" in self.validate(source).stdout
        assert " >>> [" in self.validate(source).stdout

    def test_an_alora_whose_tokens_are_another_tokenizer_s_is_refused(self, model: Any, tmp_path: Path) -> None:
        ids = list(plain_ids(model, "<|start|>safety\n"))
        source = write_peft_adapter(tmp_path / "safety", alora_invocation_tokens=[number - 1 for number in ids])
        (source / "aloraserve.json").write_text(json.dumps({"invocation_text": "<|start|>safety\n"}))
        result = self.validate(source, "--json")
        assert result.exit_code == 1
        assert [problem["code"] for problem in as_json(result)["problems"]] == ["activation"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "conversation.json cannot be read as JSON of at most 4 MiB: "),
        ("{", "conversation.json cannot be read as JSON"),
        ('["hello"]', "conversation.json is not a JSON object with 'messages' and, where it has some, 'documents'"),
        ('{"documents": []}', "is not a JSON object with 'messages'"),
        ('{"messages": [], "model": "safety"}', "is not a JSON object with 'messages'"),
    ],
)
def test_a_conversation_that_cannot_be_used_is_refused_before_anything_is_registered(
    fleet: AdapterGateway, run: Run, tmp_path: Path, content: str | None, said: str
) -> None:
    file = tmp_path / "conversation.json"
    if content is not None:
        file.write_text(content)
    refused = run("add", "safety", fleet.write(), "--call", f"@{file}", code=2)
    assert said in refused.stderr
    assert as_json(run("ls", "--json")) == []
