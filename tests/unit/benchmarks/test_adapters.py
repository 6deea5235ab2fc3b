"""The adapter benchmark: its catalog and its registrations on a real server, and what it makes of the others' calls."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import httpx
import pytest
import typer
from typer.testing import CliRunner

from aloraserve.wire.answer_stream import CallFailedError
from aloraserve_services.cli.console import EXIT_SETTINGS
from aloraserve_services.engine.simulated.answer_words import AnswerWords, Word
from benchmarks.adapter_catalog import SHAPE, CatalogBench
from benchmarks.adapter_intrinsics import IntrinsicsBench, IntrinsicsClient
from benchmarks.adapter_records import made_records
from benchmarks.adapter_register import RegisterBench
from benchmarks.adapter_switch import STALE_S, AliasCall, Switch, SwitchLog, switch_figures
from benchmarks.adapters import bench_adapters
from benchmarks.gateway_calls import Bodies
from benchmarks.harness.redis_server import bench_server
from benchmarks.harness.report import Figure
from benchmarks.intrinsics_result import LORA, TOGETHER, intrinsics_figures, intrinsics_table

BLOCK_TOKENS = 32


def values(figures: list[Figure]) -> dict[str, float]:
    return {figure.name: figure.value for figure in figures}


def test_a_catalog_is_imported_read_resolved_listed_and_exported(tmp_path: Path) -> None:
    with bench_server() as url:
        bench = CatalogBench(url, tmp_path, 250, seconds=0.3, rounds=1, seed=0, progress=lambda text: None)
        figures = values(asyncio.run(bench.run()))
    assert all(value > 0 for name, value in figures.items() if not name.startswith("memory, gateway")), figures
    assert {"resolve, p99", "list, page of 100, p99", "filter, page of 100, p99"} <= figures.keys()


def test_the_catalog_s_adapters_are_always_the_same_and_all_different() -> None:
    made = list(made_records(300))
    assert made == list(made_records(300))
    assert len({record.name for record in made}) == len({record.versions[0].version for record in made}) == 300
    assert {record.versions[0].kind for record in made} == {"alora", "lora"}
    assert not any(record.versions[0].problem for record in made)


def test_adapters_of_about_the_wanted_size_are_registered_beside_a_copy(tmp_path: Path) -> None:
    with bench_server() as url:
        figures = values(asyncio.run(RegisterBench(url, tmp_path, SHAPE, 0.1, 2, lambda text: None).run()))
    assert figures["weights"] == pytest.approx(0.1, rel=0.1)
    assert figures["register, until it takes calls"] > figures["copy and sync"] > 0


SWITCHES = [Switch("a", 0.0, 0.1), Switch("b", 10.0, 10.1), Switch("a", 20.0, 20.1)]


@pytest.mark.parametrize(
    ("call", "mixed", "stale", "late_s"),
    [
        (AliasCall(5.0, 6.0, "a"), 0, 0, [0.0, 0.0]),
        (AliasCall(9.9, 30.0, "b"), 0, 0, [0.0, 0.0]),
        (AliasCall(10.6, 11.0, "a"), 0, 0, [0.5, 0.0]),
        (AliasCall(10.1 + STALE_S + 0.5, 19.0, "a"), 0, 1, [STALE_S + 0.5, 0.0]),
        (AliasCall(19.9, 20.5, "a"), 0, 0, [0.0, 0.0]),
        (AliasCall(21.1, 22.0, "b"), 0, 0, [0.0, 1.0]),
        (AliasCall(5.0, 6.0, "b"), 0, 1, [0.0, 0.0]),
        (AliasCall(5.0, 6.0, ""), 1, 0, [0.0, 0.0]),
    ],
)
def test_an_answer_is_of_a_version_that_the_alias_pointed_to_lately(
    call: AliasCall, mixed: int, stale: int, late_s: list[float]
) -> None:
    log = SwitchLog(SWITCHES, [call])
    assert (log.mixed, log.stale) == (mixed, stale)
    assert log.late_s == pytest.approx(late_s)


def test_failed_mixed_and_stale_calls_miss_their_targets() -> None:
    good = switch_figures(SwitchLog(SWITCHES, [AliasCall(5.0, 6.0, "a")]))
    assert all(figure.is_met in (True, None) for figure in good)
    bad = switch_figures(SwitchLog(SWITCHES, [AliasCall(5.0, 6.0, ""), AliasCall(5.0, 6.0, "b")], ["lost"]))
    assert [figure.is_met for figure in bad if figure.target == 0] == [False, False, False]


class Platform:
    """Answers as a platform does that prefills what follows the conversation's blocks, or everything for a twin."""

    def __init__(self) -> None:
        self.asked: list[tuple[list[str], int]] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        tokens = 30 + sum(len(message["content"].split()) for message in body["messages"])
        if request.url.path == "/v1/chat/completions":
            return httpx.Response(200, json={"usage": {"prompt_tokens": tokens}})
        self.asked.append((body["intrinsics"], len(body["messages"])))
        return httpx.Response(200, json={"results": [self._result(name, tokens) for name in body["intrinsics"]]})

    def _result(self, name: str, tokens: int) -> dict[str, object]:
        if name == "broken":
            return {"name": name, "error": {"message": "no room"}}
        cached = 0 if name.endswith("-lora") else (tokens - 3) // BLOCK_TOKENS * BLOCK_TOKENS
        return {"name": name, "usage": {"prompt_tokens": tokens + 5, "cached_tokens": cached}}


def bench_of(platform: Platform, *names: str) -> IntrinsicsBench:
    http = httpx.Client(base_url="http://platform", transport=httpx.MockTransport(platform))
    bodies = Bodies("base", AnswerWords([Word(number, f" w{number}") for number in range(50)]))
    client = IntrinsicsClient(http, "base", BLOCK_TOKENS)
    return IntrinsicsBench(client, bodies, names, tokens=200, seed=0, progress=lambda text: None)


def test_intrinsics_are_asked_together_apart_and_as_twins_in_turns() -> None:
    platform = Platform()
    samples = bench_of(platform, "safety", "certainty").run(rounds=1, counts=(1, 2))
    assert len(samples) == 2 * 3 * 2
    of_two = [names for names, _ in platform.asked[-8:]]
    assert sorted(map(len, of_two)) == [1, 1, 1, 1, 2, 2, 2, 2]
    assert {messages for _, messages in platform.asked} == {1, 3}
    figures = intrinsics_figures(samples)
    prefilled = [figure for figure in figures if "prefilled" in figure.name]
    assert [figure.value for figure in prefilled] == [1.0] * 4
    assert intrinsics_table(samples).row_count == 2 * 2 * 3
    lora, alora = (sum(one.prefilled for one in samples if one.arm == arm) for arm in (LORA, TOGETHER))
    assert lora > 3 * alora


def test_a_failed_intrinsic_ends_the_run() -> None:
    with pytest.raises(CallFailedError, match="broken failed: no room"):
        bench_of(Platform(), "broken").run(rounds=1, counts=(1,))


def test_a_part_that_is_not_one_and_a_result_without_a_folder_are_refused(tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(bench_adapters)
    assert CliRunner().invoke(app, ["--part", "catalogue"]).exit_code == 2
    result = CliRunner().invoke(app, ["--part", "register", "--json", str(tmp_path / "none" / "figures.json")])
    assert result.exit_code == EXIT_SETTINGS
