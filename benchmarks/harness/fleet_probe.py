"""A platform as the process that started it sees it: its calls' times in their engines."""

from __future__ import annotations

from aloraserve_services.local.deployment import replica_ids

SERVED_TIMEOUT_S = 60


def served_ttft_s() -> dict[str, float]:
    """Return each call's TTFT in its simulated engine, by the id that the client gave it."""
    from ray import serve

    from aloraserve_services.app import APP
    from aloraserve_services.gateway.deployment import ENGINE

    handle = serve.get_deployment_handle(ENGINE, APP)
    # No event loop runs here for its router.
    handle._init(_run_router_in_separate_loop=True)
    handle = handle.options(method_name="served")
    found: dict[str, float] = {}
    for replica in replica_ids():
        for request_id, ttft_s in handle.remote(rank=[replica]).result(timeout_s=SERVED_TIMEOUT_S):
            # The gateway appends an id of the attempt; of several the last one answered.
            found[request_id.rpartition("-")[0]] = ttft_s
    return found
