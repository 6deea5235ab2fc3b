"""Either end of a channel is killed: the other learns of it at once."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from support.channel_fleet import ChannelFleet, until
from support.pool_replica import call_of, running

from aloraserve.routing.receipts import Outcome
from aloraserve_services.channel.connection import ChannelLostError
from aloraserve_services.channel.endpoint import Endpoint

REPLICA = """
import asyncio, json, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from support.channel_fleet import channel_fleet

async def main():
    async with channel_fleet(Path({folder!r}), "a", is_tls={tls}) as fleet:
        endpoint = fleet.endpoints["a"].as_dict()
        print(json.dumps(endpoint | {{"secret": endpoint["secret"].hex()}}), flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""
GATEWAY = """
import asyncio, json, sys
sys.path.insert(0, {tests!r})
from support.pool_replica import call_of
from aloraserve_services.channel.connection import connect
from aloraserve_services.channel.endpoint import Endpoint
from aloraserve_services.channel.replies import ChannelReplies

async def main():
    values = json.loads(sys.stdin.readline())
    connection = await connect(Endpoint.from_dict(values | {{"secret": bytes.fromhex(values["secret"])}}), print)
    replies = ChannelReplies(None)
    connection.call(call_of("hold-1"), replies)
    await replies.__anext__()
    print("running", flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@contextlib.contextmanager
def child(script: str, **values: Any) -> Any:
    """Run a script in a process of its own."""
    code = script.format(tests=str(Path(__file__).parents[1]), **values)
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("is_tls", [False, True], ids=["unix", "tls"])
async def test_a_killed_replica_loses_its_calls_at_once(tmp_path: Path, is_tls: bool) -> None:
    fleet = ChannelFleet(tmp_path)
    with child(REPLICA, folder=str(tmp_path), tls=is_tls) as process:
        values = await asyncio.to_thread(_json_line, process)
        fleet.endpoints["a"] = Endpoint.from_dict(values | {"secret": bytes.fromhex(values["secret"])})
        async with fleet.gateway() as (pool, links):
            async with pool.reserve(["a"]) as place:
                replies = place.send(call_of("hold-1"))
                await replies.__anext__()
                os.kill(process.pid, signal.SIGKILL)
                with pytest.raises(ChannelLostError) as raised:
                    await replies.__anext__()
                assert pool.outcome_of(raised.value) is Outcome.LOST
            await until(lambda: "a" not in links.open, "it is not used any more")


async def test_a_killed_gateway_s_calls_end_in_the_engine(fleet: ChannelFleet) -> None:
    endpoint = fleet.endpoints["a"].as_dict()
    with child(GATEWAY) as process:
        process.stdin.write(f"{_json(endpoint | {'secret': endpoint['secret'].hex()})}\n")
        process.stdin.flush()
        assert await asyncio.to_thread(process.stdout.readline) == "running\n"
        assert fleet.servers["a"].running == 1
        os.kill(process.pid, signal.SIGKILL)
        await until(lambda: fleet.servers["a"].running == 0 and not running(fleet.folder), "the engine has ended it")


def _json(values: Any) -> str:
    return msgspec.json.encode(values).decode()


def _json_line(process: Any) -> dict[str, Any]:
    for line in process.stdout:
        if line.startswith("{"):
            found: dict[str, Any] = msgspec.json.decode(line)
            return found
    raise AssertionError("the replica did not start")
