"""A fleet in two cells, each with a directory on a server of its own."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.own_valkey import socket_url, valkey_server

BASE = "SmolLM2-135M-Instruct"
REPLICAS = 4
APPLICATIONS = 8

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def servers() -> Iterator[list[Any]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(valkey_server()) for _ in range(3)]


@pytest.fixture(scope="module")
def fleet(start: Callable[..., Any], servers: list[Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    fleets, *cells = map(socket_url, servers)
    settings = {"engine": "simulated", "replicas": REPLICAS, "cells": 2, "cell_redis_urls": cells}
    # JSON is YAML.
    config = tmp_path_factory.mktemp("cells") / "cells.yaml"
    config.write_text(json.dumps(settings | {"redis_url": fleets, "cell_spill_s": 60}))
    with start("--config", str(config), own_state=True) as running:
        running.wait_until(lambda: len(running.replicas()["replicas"]) == REPLICAS, 120, "all replicas in a directory")
        yield running


def conversation(application: int, subject: str) -> list[dict[str, str]]:
    return [
        # Applications part in their first block.
        {"role": "system", "content": f"{application} is the number of this application. " * 20},
        {"role": "user", "content": f"Tell me about {subject}."},
    ]


def test_applications_stay_in_their_cells_and_reuse_what_lies_there(fleet: Any) -> None:
    states = fleet.replicas()
    assert states["directory"] == "ok"
    cells = {state["label"]: state["cell"] for state in states["replicas"]}
    assert sorted(cells.values()) == [0, 0, 1, 1]
    homes = {}
    for application in range(APPLICATIONS):
        first = fleet.chat(BASE, conversation(application, "a lighthouse"))
        safety = fleet.chat("safety", conversation(application, "a lighthouse"))
        assert safety.replica == first.replica, "no load sends it elsewhere"
        assert safety.cached_tokens > 0.7 * first.prompt_tokens
        homes[application] = {cells[first.replica]}
        for subject in ("a canal", "a mill"):
            homes[application].add(cells[fleet.chat(BASE, conversation(application, subject)).replica])
    assert all(len(found) == 1 for found in homes.values()), homes
    assert set.union(*homes.values()) == {0, 1}


def test_a_cell_that_loses_its_directory_costs_no_answer(fleet: Any, servers: list[Any]) -> None:
    cells = {state["label"]: state["cell"] for state in fleet.replicas()["replicas"]}
    before = {
        application: cells[fleet.chat(BASE, conversation(application, "a dam")).replica]
        for application in range(APPLICATIONS)
    }
    servers[1].terminate()
    fleet.wait_until(
        lambda: fleet.replicas()["directory"] == "1 of 2 cells cannot be reached",
        120,
        "the loss of a directory to show",
    )
    for application, cell in before.items():
        again = fleet.chat(BASE, conversation(application, "a dam"))
        assert cells[again.replica] == cell
        assert (again.policy == "fallback") == (cell == 0)
