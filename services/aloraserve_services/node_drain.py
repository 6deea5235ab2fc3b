"""Drain this machine's Ray node before its container ends: ``python -m aloraserve_services.node_drain --within 1900``.

The ``preStop`` hook of pods with gateways or engines. Ray Serve does not know that Kubernetes ends a pod, and Ray ends
its processes at SIGTERM, whatever they are doing. So the node is drained first: Serve starts what runs here elsewhere,
then stops it as for any other reason, and its running answers end.

Of the head's pod it is the hook with ``--head``: a cluster that is deleted ends all its pods at once, and with the head
goes Serve's controller, which stops replicas. So the head waits for the nodes that are being drained.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import psutil

REPLICA = "ServeReplica:"
"""What Ray calls processes of Serve's replicas."""
CALL_S = 10.0
POLL_S = 0.5
HEAD_GONE_S = 600.0
"""Time without Ray's head after which nobody is waited for: as long as KubeRay has a worker's Ray wait for a head that
keeps its state in Redis. Without such a state Ray ends the replicas itself, after a minute."""
REFUSED_PAUSES_S = (1.0, 2.0, 4.0)
"""After each refusal; Ray refuses a node that has only just come, for one."""
DRAINS_BEGIN_S = 20.0
"""Time in which the hooks of pods that end together have begun to drain their nodes."""


def main(arguments: Sequence[str]) -> int:
    """Drain the node and wait until no replica is left on it; return 0 whatever happens, as the pod ends anyway."""
    parser = argparse.ArgumentParser(prog="node_drain", description="Drain this machine's Ray node.")
    parser.add_argument("--within", type=float, required=True, help="Seconds after which replicas are cut off.")
    parser.add_argument("--head", action="store_true", help="Wait for the nodes that are drained: this is Ray's head.")
    parser.add_argument("--address", default=os.environ.get("RAY_ADDRESS"), help="HOST:PORT of Ray's head.")
    options = parser.parse_args(arguments)
    if not options.address:
        parser.error("--address is not given, and RAY_ADDRESS is not set")
    return (_wait_as_head if options.head else _drain)(options.address, options.within)


def _drain(address: str, within_s: float) -> int:
    try:
        client = _client(address)
        node_id = own_node(client.get_all_node_info(timeout=CALL_S), _own_addresses())
        if node_id is None:
            print("node_drain: no node of this Ray is here")
            return 0
        deadline_ms = int((time.time() + within_s) * 1000)
        reason = refusal_of(lambda: client.drain_node(node_id, _preemption(), "its pod ends", deadline_ms))
    except Exception as error:  # noqa: BLE001 - whatever Ray raises: there is nobody to ask then
        print(f"node_drain: Ray's head does not answer: {type(error).__name__}")
        return 0
    if reason is not None:
        # Nobody stops the replicas here then: to wait for their end would hold up the pod's for nothing.
        print(f"node_drain: refused: {reason}")
        return 0
    print("node_drain: draining", flush=True)
    left = wait_until_left(lambda: _count_replicas(node_id), lambda: _answers(client), within_s)
    print(f"node_drain: {left} replicas are left" if left else "node_drain: drained")
    return 0


def refusal_of(drain: Callable[[], tuple[bool, str]], *, sleep: Callable[[float], None] = time.sleep) -> str | None:
    """Ask for a drain, a few times where it is refused; return why it still is, None if it is not.

    Args:
        drain: asks Ray's head; returns whether it accepts, and why not.
        sleep: waits so many seconds.
    """
    for pause_s in REFUSED_PAUSES_S:
        is_accepted, reason = drain()
        if is_accepted:
            return None
        sleep(pause_s)
    return reason


def _wait_as_head(address: str, within_s: float) -> int:
    try:
        client = _client(address)
        left = wait_for_drains(lambda: _count_draining(client), within_s)
    except Exception as error:  # noqa: BLE001 - whatever Ray raises: there is nobody to wait for then
        print(f"node_drain: Ray's head does not answer: {type(error).__name__}")
        return 0
    print(f"node_drain: nodes that are still being drained: {left}" if left else "node_drain: no node is being drained")
    return 0


def own_node(nodes: Mapping[Any, Any], own_addresses: frozenset[str]) -> str | None:
    """Return the id of the living node at one of these addresses.

    Args:
        nodes: of Ray's head, by id, as its client returns them.
        own_addresses: of this machine.
    """
    alive = ((node_id, node) for node_id, node in nodes.items() if node.state == 0)
    return next((node_id.hex() for node_id, node in alive if node.node_manager_address in own_addresses), None)


def wait_until_left(
    count: Callable[[], int],
    head_answers: Callable[[], bool],
    within_s: float,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """Wait until no replica is left here, time is up, or Ray's head is gone; return how many are left.

    Args:
        count: says how many replicas there are.
        head_answers: whether Ray's head does.
        within_s: seconds to wait at most.
        clock: in seconds.
        sleep: waits so many.
    """
    began = answered = clock()
    while (left := count()) and clock() - began < within_s:
        if head_answers():
            answered = clock()
        elif clock() - answered > HEAD_GONE_S:
            break
        sleep(POLL_S)
    return left


def wait_for_drains(
    count: Callable[[], int],
    within_s: float,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """Wait until no node has been drained for a while, or time is up; return how many still are.

    Args:
        count: says how many nodes are being drained.
        within_s: seconds to wait at most.
        clock: in seconds.
        sleep: waits so many.
    """
    began = drained = clock()
    while clock() - began < within_s:
        if count():
            drained = clock()
        elif clock() - drained >= DRAINS_BEGIN_S:
            return 0
        sleep(POLL_S)
    return count()


def _count_draining(client: Any) -> int:
    """Return how many living nodes are being drained; Ray's head knows those that are gone for a while longer."""
    nodes = client.get_all_node_info(timeout=CALL_S)
    alive = {node_id.hex() for node_id, node in nodes.items() if node.state == 0}
    return len(alive & set(client.get_draining_nodes(timeout=CALL_S)))


def _client(address: str) -> Any:
    from ray._raylet import GcsClient  # type: ignore[attr-defined]

    return GcsClient(address=address)


def _preemption() -> int:
    from ray.core.generated.autoscaler_pb2 import DrainNodeReason

    return int(DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION"))


def _answers(client: Any) -> bool:
    try:
        client.get_all_node_info(timeout=CALL_S)
    except Exception:  # noqa: BLE001
        return False
    return True


def _own_addresses() -> frozenset[str]:
    return frozenset(address.address for found in psutil.net_if_addrs().values() for address in found)


def _count_replicas(node_id: str) -> int:
    """Return how many replicas are children of the node's raylet; others may run on the same machine."""
    raylets = (process for process in psutil.process_iter() if f"--node_id={node_id}" in _command(process))
    children = (child for raylet in raylets for child in _children(raylet))
    return sum(REPLICA in " ".join(_command(child)) for child in children)


def _command(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except psutil.Error:
        return []


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return list(process.children())
    except psutil.Error:
        return []


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
