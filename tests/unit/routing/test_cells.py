"""Two cells: calls have a home, spill when it is loaded, and never reach a replica of the other cell by mistake."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial

import pytest

from aloraserve.blocks import KeySpace
from aloraserve.directory.base import ReplicaLoad, ReplicaState, place
from aloraserve.directory.memory import MemoryDirectory
from aloraserve.errors import DirectoryUnavailableError
from aloraserve.routing.base import Call
from aloraserve.routing.cells import CellReplicas, CellRouter, cell_namespace, cell_of
from aloraserve.routing.conversation_names import ConversationNames
from aloraserve.routing.expected_ttft import ExpectedTtft
from aloraserve.routing.in_flight import InFlight
from aloraserve.routing.placement import FallbackCause, Placement
from aloraserve.routing.router import Router

SPACE = KeySpace("model", "tokenizer", 16)
SPILL_S = 0.5
RATES = {"prefill_s_per_token": 0.001, "kv_tokens": 100_000, "max_requests": 8, "step_tokens": 2048}


def call(application: int, conversation: int, turns: int = 1) -> Call:
    """A call with a system prompt of 64 tokens and a turn of 64 tokens at a time."""
    prompt = [application] * 64
    for turn in range(turns):
        prompt += [1_000_000 + conversation * 100 + turn] * 64
    return Call(len(prompt), 16, SPACE.keys(prompt))


class SwitchedDirectory(MemoryDirectory):
    """Can be gone."""

    is_gone = False

    async def lookup(self, keys: Sequence[bytes]):  # type: ignore[no-untyped-def]
        if self.is_gone:
            raise DirectoryUnavailableError("the directory at redis:// failed")
        return await super().lookup(keys)


class Fleet:
    """Four replicas in two cells, by their rank."""

    def __init__(self, cells: int = 2, replicas: int = 4) -> None:
        self.names = [f"r{rank}" for rank in range(replicas)]
        self.directories = [SwitchedDirectory() for _ in range(cells)]
        self.known = list(self.names)
        self.members = CellReplicas(lambda: self.known, self.directories)
        self.in_flight = InFlight()
        self.router = self.gateway(self.in_flight)

    def gateway(self, in_flight: InFlight) -> CellRouter:
        """Return another gateway's router."""
        names = ConversationNames()
        routers = [
            Router(
                directory,
                ExpectedTtft(),
                SPACE,
                known_replicas=partial(self.members.of, cell),
                names=names,
                in_flight=in_flight,
            )
            for cell, directory in enumerate(self.directories)
        ]
        return CellRouter(routers, self.members, names, in_flight, spill_s=SPILL_S)

    def cell(self, replica: str) -> int:
        return cell_of(self.names.index(replica), len(self.directories))

    async def publish(self, *, queues: dict[int, float] | None = None) -> None:
        for name in self.names:
            load = ReplicaLoad(**RATES, queued_prefill_s=(queues or {}).get(self.cell(name), 0.0))
            await self.directories[self.cell(name)].publish(ReplicaState(name, "1", load=load), ttl_s=60)

    async def ask(self, one: Call, claim_id: str = "asked") -> Placement:
        """Place a call that leaves nothing behind."""
        placement = await self.router.place(one, claim_id)
        await self.router.withdraw(one, placement, claim_id)
        return placement

    async def hold(self, replica: str, one: Call) -> None:
        await self.directories[self.cell(replica)].apply(replica, "1", stored=place(one.keys))


@pytest.fixture
async def fleet() -> Fleet:
    made = Fleet()
    await made.publish()
    await made.members.read()
    return made


def test_cells_take_replicas_in_turn_and_one_cell_keeps_the_fleets_namespace() -> None:
    assert [cell_of(rank, 3) for rank in range(7)] == [0, 1, 2, 0, 1, 2, 0]
    assert cell_namespace("prod", 0, 1) == "prod"
    assert len({cell_namespace("prod", cell, 3) for cell in range(3)} | {"prod"}) == 4


async def test_an_applications_calls_stay_in_one_cell_and_applications_spread(fleet: Fleet) -> None:
    homes: Counter[int] = Counter()
    for application in range(40):
        cells = set()
        for conversation in range(5):
            placement = await fleet.ask(call(application, conversation))
            assert fleet.cell(placement.replica) == placement.cell
            assert not placement.spilled
            cells.add(placement.cell)
        assert len(cells) == 1
        homes[cells.pop()] += 1
    assert min(homes.values()) >= 8


async def test_two_gateways_agree_on_an_applications_cell() -> None:
    fleets = [Fleet(), Fleet()]
    for one in fleets:
        await one.publish()
    for application in range(20):
        placements = [await one.router.place(call(application, 1), f"a{application}") for one in fleets]
        assert len({placement.cell for placement in placements}) == 1


async def test_calls_spill_from_a_loaded_home_and_come_back_when_it_is_not(fleet: Fleet) -> None:
    one = call(7, 1)
    home = (await fleet.router.place(one, "first")).cell
    await fleet.publish(queues={home: SPILL_S * 4})
    spilled = await fleet.router.place(call(7, 2), "second")
    assert (spilled.cell, spilled.spilled) == (1 - home, True)
    await fleet.publish()
    assert (await fleet.router.place(call(7, 3), "third")).cell == home


async def test_no_call_spills_where_the_other_cell_is_no_better(fleet: Fleet) -> None:
    home = (await fleet.router.place(call(7, 1), "first")).cell
    await fleet.publish(queues={home: SPILL_S * 4, 1 - home: SPILL_S * 5})
    assert (await fleet.router.place(call(7, 2), "second")).cell == home


async def test_a_conversation_that_spilled_is_found_where_it_is_by_every_gateway(fleet: Fleet) -> None:
    first = call(7, 2, turns=10)
    home = (await fleet.router.place(call(7, 1), "first")).cell
    await fleet.publish(queues={home: 4 * SPILL_S})
    spilled = await fleet.router.place(first, "second")
    await fleet.hold(spilled.replica, first)
    await fleet.publish()
    another = fleet.gateway(InFlight())
    again = await another.place(call(7, 2, turns=11), "third")
    assert (again.replica, again.spilled) == (spilled.replica, True)


async def test_an_outage_of_one_cells_directory_leaves_its_conversations_there(fleet: Fleet) -> None:
    placements = {app: await fleet.ask(call(app, 1)) for app in range(20)}
    fleet.directories[0].is_gone = True
    for app, before in placements.items():
        placement = await fleet.ask(call(app, 1))
        assert placement.cell == before.cell
        causes = (FallbackCause.UNREACHABLE, FallbackCause.BREAKER_OPEN) if before.cell == 0 else (None,)
        assert placement.fallback in causes
        assert fleet.cell(placement.replica) == before.cell


async def test_a_cell_without_replicas_sends_its_calls_to_the_other(fleet: Fleet) -> None:
    home = (await fleet.router.place(call(7, 1), "first")).cell
    fleet.known[:] = [name for name in fleet.names if fleet.cell(name) != home]
    placement = await fleet.router.place(call(7, 2), "second")
    assert (placement.cell, placement.spilled) == (1 - home, True)


async def test_replicas_lost_under_a_call_are_avoided_in_both_cells(fleet: Fleet) -> None:
    home = (await fleet.router.place(call(7, 1), "first")).cell
    lost = {name for name in fleet.names if fleet.cell(name) == home}
    placement = await fleet.router.place(call(7, 1), "again", avoid=lost)
    assert placement.cell == 1 - home
    assert placement.replica not in lost


async def test_a_claim_is_moved_and_withdrawn_in_its_own_cell(fleet: Fleet) -> None:
    one = call(7, 1, turns=4)
    placement = await fleet.router.place(one, "claim")
    other = next(name for name in fleet.names if fleet.cell(name) == placement.cell and name != placement.replica)
    moved = await fleet.router.move(one, placement, other, "claim")
    (seen,) = [
        candidate
        for candidate in await fleet.directories[placement.cell].lookup(one.keys)
        if candidate.state.replica == other
    ]
    assert seen.claimed_tokens == one.prompt_tokens
    assert await fleet.router.withdraw(one, moved, "claim")
    found = await fleet.directories[placement.cell].lookup(one.keys)
    assert not any(candidate.claimed_tokens for candidate in found)


async def test_short_prompts_without_a_block_go_to_all_cells_in_turn(fleet: Fleet) -> None:
    short = Call(5, 16, [])
    cells = [(await fleet.router.place(short, f"{number}")).cell for number in range(6)]
    assert sorted(cells) == [0, 0, 0, 1, 1, 1]


async def test_a_call_is_in_flight_in_whichever_cell_until_it_ends(fleet: Fleet) -> None:
    placed = {f"{app}": await fleet.router.place(call(app, 1), f"{app}") for app in range(8)}
    assert {placement.cell for placement in placed.values()} == {0, 1}
    assert sum(fleet.in_flight.load(name).calls for name in fleet.names) == 8
    for claim_id in placed:
        fleet.router.answered(claim_id)
    assert [fleet.in_flight.load(name).tokens for name in fleet.names] == [0] * 4
    for claim_id in placed:
        fleet.router.ended(claim_id)
    assert len(fleet.in_flight) == 0


def test_replicas_that_nobody_named_may_be_anyones_and_what_left_is_forgotten() -> None:
    known = ["a", "b", "c"]
    members = CellReplicas(lambda: known, [])
    members.note(0, {"a"})
    members.note(1, {"b"})
    assert (members.of(0), members.of(1)) == (["a", "c"], ["b", "c"])
    members.note(0, set())
    members.note(1, {"b", "z"})
    assert members.of(1) == ["b", "c"], "a lapsed lease does not change the cell"
    known[:] = ["b", "d"]
    members.note(1, {"b", "d"})
    assert (members.of(0), members.of(1)) == ([], ["b", "d"])
