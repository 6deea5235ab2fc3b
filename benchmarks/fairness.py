"""``make bench-fairness``: prefill seconds of two tenants under overload, by how engines order their calls.

In simulated time: the platform's router in two gateways, modelled engines, tenants of weights 4 and 1 that each ask for
all that the fleet has. All calls of the first come through one gateway, the second's through both.
"""

from __future__ import annotations

import statistics
from typing import Annotated

import typer

from aloraserve.engine_model.calibration import Calibration
from aloraserve.engine_model.calibration import load as load_calibration
from aloraserve.routing.scheduling import Scheduling, SchedulingPolicy
from aloraserve.simulation.fleet import FleetSettings, ModelledFleet
from aloraserve.simulation.router_names import router_factory
from aloraserve.simulation.tenants import TenantLoad, TenantWorkload, prefill_seconds, tenant_of
from aloraserve_services.cli.console import clearly, out
from aloraserve_services.cli.options import JsonFile
from benchmarks.harness.command import run_command
from benchmarks.harness.report import make_table, wide, write_json

HEAVY, LIGHT = "heavy", "light"
WEIGHTS = {HEAVY: 4.0, LIGHT: 1.0}
LENGTHS = {
    "equal calls": ((1500, 2500), (1500, 2500)),
    "long calls against short ones": ((500, 8000), (100, 500)),
    "short calls against long ones": ((100, 500), (500, 8000)),
}
ORDERS: dict[str, tuple[SchedulingPolicy, bool]] = {
    "in order of arrival": ("fcfs", False),
    "shortest first, tenants unknown": ("priority", False),
    "shares by weight": ("priority", True),
}
WARM_SHARE = 0.2
"""Of the time, that is not counted."""


@clearly
def bench_fairness(
    calibration: Annotated[str, typer.Option(help="Engine times: a file or a name.")] = "h100-llama-3.1-8b",
    seconds: Annotated[float, typer.Option(min=10, max=3600, help="How long tenants send, in simulated time.")] = 60.0,
    replicas: Annotated[int, typer.Option(min=1, max=64, help="Engines.")] = 2,
    overload: Annotated[float, typer.Option(min=1, max=4, help="What each tenant asks for, in fleets.")] = 1.2,
    json: JsonFile = None,
) -> None:
    """Measure how engines share their prefill between two tenants of weights 4 and 1, over two gateways."""
    times = load_calibration(calibration)
    table = make_table(
        "Prefill of the tenant of weight 4 for each second of the other's; TTFT means",
        ("calls", "order in the engine", "ratio", "heavy TTFT", "light TTFT"),
        left=("calls", "order in the engine"),
    )
    results = []
    for lengths, tokens in LENGTHS.items():
        for order, (policy, shares) in ORDERS.items():
            loads = [_load(times, name, tokens[at], replicas * overload) for at, name in enumerate(WEIGHTS)]
            ratio, ttft_s = _run(times, loads, seconds, replicas, policy, shares=shares)
            table.add_row(lengths, order, f"{ratio:.2f}", *(f"{ttft_s[name]:.1f} s" for name in WEIGHTS))
            results.append({"calls": lengths, "order": order, "ratio": ratio, "ttft_s": ttft_s})
    wide(out).print(table)
    if json is not None:
        write_json(json, results)


def _load(times: Calibration, name: str, tokens: tuple[int, int], asks_for: float) -> TenantLoad:
    each_s = times.prefill.model.seconds(0, sum(tokens) // 2)
    ingress = (0,) if name == HEAVY else (0, 1)
    return TenantLoad(name, WEIGHTS[name], asks_for / each_s, tokens, ingress)


def _run(
    times: Calibration,
    loads: list[TenantLoad],
    seconds: float,
    replicas: int,
    policy: SchedulingPolicy,
    *,
    shares: bool,
) -> tuple[float, dict[str, float]]:
    fleet = ModelledFleet(
        FleetSettings(times, replicas=replicas, gateways=2, scheduling=Scheduling(policy)),
        TenantWorkload(loads, seconds, shares=shares),
        router_factory("expected-ttft"),
    )
    records = fleet.run().records
    got = prefill_seconds(records, times.prefill.model, WARM_SHARE * seconds, seconds)
    ttft_s = {
        name: statistics.fmean(record.ttft_s for record in records if tenant_of(record.session) == name)
        for name in WEIGHTS
    }
    return got[HEAVY] / got[LIGHT], ttft_s


if __name__ == "__main__":
    run_command(bench_fairness)
