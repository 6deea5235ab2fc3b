"""What dies takes no call with it: the directory, and a replica with its engine. Runs after the other tests."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import psutil
import pytest

BASE = "SmolLM2-135M-Instruct"

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]


def messages(subject: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"Tell me about {subject}. " * 30}]


def test_calls_go_on_without_the_directory_and_it_fills_again(platform: Any, directory_server: Any) -> None:
    conversation = messages("a harbour")
    first = platform.chat(BASE, conversation)
    platform.settle()
    assert platform.chat("safety", conversation).replica == first.replica
    directory_server.terminate()
    without = [platform.chat(model, conversation) for model in (BASE, "safety", "uncertainty", BASE)]
    assert {reply.policy for reply in without} == {"fallback"}
    assert len({reply.replica for reply in without}) == 1, "the fallback keeps a conversation together"
    assert platform.http.get("/readyz").status_code == 200
    directory_server.start()
    platform.settle()

    def found() -> bool:
        reply = platform.chat("safety", conversation)
        return reply.policy == "expected-ttft" and "holds" in reply.reason

    platform.wait_until(found, 120, "the directory to be full again")


def engines(platform: Any) -> dict[int, list[psutil.Process]]:
    """Return the replicas' processes and the engine processes below each."""
    found = {}
    for process in platform.process.children(recursive=True):
        if "ServeReplica:aloraserve:engine" in command_of(process):
            found[process.pid] = [one for one in process.children(recursive=True) if is_engine(one)]
    return found


def is_engine(process: psutil.Process) -> bool:
    """Return whether a replica's child is vLLM's engine, whose title does not always replace how it was started."""
    command = command_of(process)
    return "VLLM" in command or "multiprocessing.spawn" in command


def described(platform: Any) -> list[str]:
    """Return every process of the platform, with its parent's number, its state and its age."""
    lines = []
    for process in platform.process.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            age_s = time.time() - process.create_time()
            line = f"{process.ppid()}>{process.pid} {process.status()} {age_s:.0f} s {command_of(process)[:60]}"
            lines.append(line.strip())
    return lines


def command_of(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:  # a zombie is one too
        return ""


def test_a_killed_replica_takes_its_engine_along_and_no_call(platform: Any) -> None:
    def known_engines() -> bool:
        """Also while a replica that was lost before is being replaced."""
        known.clear()
        known.update(engines(platform))
        return len(known) == 2 and all(known.values())

    known: dict[int, list[psutil.Process]] = {}
    try:
        platform.wait_until(known_engines, 120, "an engine below each of two replicas")
    except AssertionError as error:
        raise AssertionError(f"{error}; there are {described(platform)}") from None
    platform.settle()
    is_over = threading.Event()
    victim, below = next(iter(known.items()))

    def keep_calling(number: int) -> list[str]:
        texts: list[str] = []
        while len(texts) < 2 or not is_over.is_set():
            texts.append(platform.chat("safety" if number % 2 else BASE, messages(f"lighthouse {number}"), 24).text)
        return texts

    with ThreadPoolExecutor(4) as pool:
        calls = [pool.submit(keep_calling, number) for number in range(4)]
        platform.wait_until(lambda: at_work(platform) >= 3, 120, "calls on the replicas")
        try:
            os.kill(victim, signal.SIGKILL)
            gone, alive = psutil.wait_procs(below, timeout=60)
        finally:
            is_over.set()
        answered = [call.result() for call in calls]
    assert not alive, "engine processes outlived their replica"
    assert len(gone) == len(below)
    for texts in answered:
        assert len(set(texts)) == 1, "the same call has the same answer wherever it ran"
    platform.wait_until(lambda: len(platform.replicas()["replicas"]) == 2, 400, "the replica to be replaced")
    platform.wait_until(lambda: len(engines(platform)) == 2, 120, "its engine to run")


def at_work(platform: Any) -> int:
    """Return how many calls the replicas have."""
    loads = [one["load"] for one in platform.replicas()["replicas"]]
    return sum(load["running"] + load["waiting"] for load in loads)


def engine_at_work(known: dict[int, list[psutil.Process]], parts: Iterator[Any]) -> psutil.Process:
    """Read parts of a stream until one replica's engine has clearly worked for it, and the others have not."""

    def user_s(replica: int) -> float:
        return float(sum(one.cpu_times().user for one in known[replica]))

    next(parts)
    before_s = {replica: user_s(replica) for replica in known}
    for _ in parts:
        spent = sorted((user_s(replica) - before_s[replica], replica) for replica in known)
        (other_s, _), (most_s, replica) = spent[-2:]
        if most_s > 0.3 and other_s < most_s / 4:
            return max(known[replica], key=lambda one: one.cpu_times().user)
    raise AssertionError("the answer ended before an engine stood out")


def test_a_dead_engine_ends_what_it_had_begun_and_is_forgotten_at_once(platform: Any) -> None:
    platform.settle()
    known = engines(platform)
    stream = platform.openai.completions.create(
        model=BASE, prompt="Once upon a time", max_tokens=2000, temperature=0, stream=True
    )
    parts = iter(stream)
    engine_at_work(known, parts).kill()
    with pytest.raises(openai.APIError, match="incomplete"):
        for _ in parts:
            pass
    platform.wait_until(lambda: len(platform.replicas()["replicas"]) == 1, 120, "the replica without an engine to go")
    assert platform.chat(BASE, messages("another thing")).text
    platform.wait_until(lambda: len(platform.replicas()["replicas"]) == 2, 400, "the replica to be replaced")


def test_a_hung_engine_is_killed_and_its_calls_are_answered_elsewhere(platform: Any) -> None:
    """It neither ends nor answers: as when a GPU fault or a collective that never ends holds it."""
    platform.settle()
    known = engines(platform)
    stream = platform.openai.completions.create(
        model=BASE, prompt="Once upon a time", max_tokens=2000, temperature=0, stream=True
    )
    parts = iter(stream)
    hung = engine_at_work(known, parts)
    hung.suspend()
    with ThreadPoolExecutor(4) as pool:
        calls = [pool.submit(platform.chat, BASE, messages(f"lighthouse {number}"), 24) for number in range(4)]
        with pytest.raises(openai.APIError, match="incomplete"):
            for _ in parts:
                pass
        answered = [call.result() for call in calls]
    assert all(reply.text for reply in answered)
    assert len({reply.replica for reply in answered}) == 1
    _, alive = psutil.wait_procs([hung], timeout=90)
    assert not alive, "a hung engine keeps its GPU"
    platform.wait_until(lambda: len(platform.replicas()["replicas"]) == 1, 120, "its replica to leave the directory")
