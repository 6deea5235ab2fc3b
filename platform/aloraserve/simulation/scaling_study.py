"""Autoscalers compared: each on the same calls, router and engines, by what it costs and how long users wait."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import cast

from aloraserve.engine_model.calibration import Calibration
from aloraserve.errors import SettingsError
from aloraserve.scaling.base import Scaler, ScalingRules
from aloraserve.scaling.handover import ANSWER_S, HAND_OVER_S
from aloraserve.scaling.objective_scaler import ObjectiveScaler
from aloraserve.simulation.fleet import CallRecord, FleetSettings
from aloraserve.simulation.router_names import router_factory
from aloraserve.simulation.scaled_fleet import Growth, ScaledFleet, ScaledResult
from aloraserve.simulation.scalers.constant import Constant
from aloraserve.simulation.scalers.pod_autoscaler import Metric, PodAutoscaler
from aloraserve.simulation.scalers.serve_default import ServeDefault
from aloraserve.simulation.summary import percentile
from aloraserve.simulation.workers import no_collector
from aloraserve.simulation.workload import Workload

ROUTER = "expected-ttft"
OURS, SERVE, HPA, KEDA, ALL = "aloraserve", "serve-default", "hpa-kv-usage", "keda-queue", "constant"
SCALERS = (OURS, SERVE, HPA, KEDA, ALL)
DEFAULTS = {SERVE: ("2", "600", "30"), HPA: ("0.3", "300"), KEDA: ("8", "300", "ongoing")}
"""Settings that a user does not name: Serve's own, and a stabilization of five minutes as Kubernetes has it."""
PACED_TOKENS = 16
"""Answers that are shorter are over before their pace is noticed."""


@dataclass(frozen=True, slots=True)
class ScalerChoice:
    """A scaler with its settings.

    Args:
        name: one of :data:`SCALERS`.
        target: requests per replica of Serve's and KEDA's, KV usage of the HPA's, replicas of the constant one.
        down_s: of Serve's, the HPA's and KEDA's: delay or stabilization before replicas go.
        up_s: of Serve's: delay before replicas come.
        metric: of KEDA's: what its queue is.
        by_worth: of ours: whether it chooses who leaves.
        warm_up_budget_s: of ours: see :class:`~aloraserve.simulation.scaled_fleet.Growth`.
        hand_over_s: of ours, likewise.
    """

    name: str
    target: float = 1.0
    down_s: float = 0.0
    up_s: float = 0.0
    metric: Metric = "waiting"
    by_worth: bool = True
    warm_up_budget_s: float = 20.0
    hand_over_s: float = HAND_OVER_S - ANSWER_S

    def __str__(self) -> str:
        match self.name:
            case "aloraserve":
                left = {"newest first": not self.by_worth, "cold": not self.warm_up_budget_s}
                left["nothing handed over"] = not self.hand_over_s
                return ", ".join(part for part, is_so in left.items() if is_so) or "as it is"
            case "serve-default":
                return f"{self.target:g} ongoing, {self.up_s:g} s up, {self.down_s:g} s down"
            case "hpa-kv-usage":
                return f"{self.target:.0%}, {self.down_s:g} s down"
            case "keda-queue":
                return f"{self.target:g} {self.metric}, {self.down_s:g} s down"
        return f"{self.target:g} replicas"

    def scaler(self, rules: ScalingRules) -> Scaler:
        """Return the scaler, within the rules' bounds.

        Raises:
            SettingsError: there is none of that name.
        """
        bounds = rules.min_replicas, rules.max_replicas
        if self.name == OURS:
            return ObjectiveScaler(rules)
        if self.name == SERVE:
            return ServeDefault(
                *bounds,
                target_ongoing_requests=self.target,
                upscale_delay_s=self.up_s,
                downscale_delay_s=self.down_s,
            )
        if self.name in (HPA, KEDA):
            metric: Metric = "kv-usage" if self.name == HPA else self.metric
            return PodAutoscaler(*bounds, metric=metric, target=self.target, stabilization_s=self.down_s)
        if self.name == ALL:
            return Constant(int(self.target))
        raise SettingsError(f"scaler is {self.name!r}; {', '.join(SCALERS)} are accepted")

    def growth(self, growth: Growth) -> Growth:
        """Return how replicas come and go with it."""
        if self.name != OURS:
            return growth
        return replace(
            growth,
            by_worth=self.by_worth,
            warm_up_budget_s=self.warm_up_budget_s,
            hand_over_s=self.hand_over_s,
        )


def parse_scaler(text: str, most: int) -> ScalerChoice:
    """Return the scaler that a user names.

    Args:
        text: ``NAME``, or with settings: ``serve-default:TARGET[:DOWN_S[:UP_S]]``, ``hpa-kv-usage:TARGET[:DOWN_S]``,
            ``keda-queue:TARGET[:DOWN_S[:METRIC]]``, ``constant:REPLICAS``.
        most: replicas at most.

    Raises:
        SettingsError: there is no such scaler, or a setting is not accepted.
    """
    name, *given = text.split(":")
    defaults = (DEFAULTS | {ALL: (str(most),)}).get(name, ())
    if name not in SCALERS or len(given) > len(defaults):
        raise SettingsError(f"scaler is {text!r}; {', '.join(SCALERS)} are accepted, with settings all but the first")
    if name == OURS:
        return ScalerChoice(OURS)
    settings = [*given, *defaults[len(given) :]]
    metric = settings.pop() if name == KEDA else "waiting"
    try:
        target, down_s, up_s = [float(setting) for setting in settings] + [0.0] * (3 - len(settings))
    except ValueError:
        raise SettingsError(f"scaler is {text!r}; numbers are accepted after {name}") from None
    if not 0 < target < math.inf or not 0 <= down_s < math.inf or not 0 <= up_s < math.inf:
        raise SettingsError(f"scaler is {text!r}; a target above 0 and times from 0 s are accepted")
    if name == ALL and target > most:
        raise SettingsError(f"scaler is {text!r}; at most {most} replicas are accepted here")
    if metric not in ("waiting", "ongoing"):
        raise SettingsError(f"scaler is {text!r}; waiting or ongoing is accepted as its metric")
    return ScalerChoice(name, target, down_s, up_s, cast(Metric, metric))


@dataclass(frozen=True, slots=True)
class ScalingStudy:
    """What all scalers of a comparison share.

    Args:
        calibration: of each engine.
        rules: bounds and objectives; the rest is ours.
        growth: how replicas come.
        seed: of the router.
    """

    calibration: Calibration
    rules: ScalingRules
    growth: Growth = field(default_factory=Growth)
    seed: int = 0

    def run(
        self, choice: ScalerChoice, workload: Workload, *, on_progress: Callable[[int], None] = lambda sent: None
    ) -> tuple[dict[str, float], ScaledResult]:
        """Play a workload under a scaler; return its figures (:func:`scaling_figures`) and what they are made of."""
        fleet = ScaledFleet(
            # As many again may be leaving.
            FleetSettings(self.calibration, 2 * self.rules.max_replicas, seed=self.seed),
            workload,
            router_factory(ROUTER),
            choice.scaler(self.rules),
            choice.growth(self.growth),
            on_progress=on_progress,
        )
        with no_collector():
            result = fleet.run_scaled()
        return scaling_figures(result, self.rules), result


def scaling_figures(result: ScaledResult, rules: ScalingRules) -> dict[str, float]:
    """Return a run's figures by name.

    A call violates its objectives if its first token comes later than they say, or the tokens of an answer of at least
    ``PACED_TOKENS`` on average do, or it was not answered. Missed are tokens that were
    computed though a replica that had left had them.
    """
    records = result.run.records
    ttfts = sorted(record.ttft_s for record in records)
    prompts = sum(record.prompt_tokens for record in records)
    late = sum(_is_late(record, rules) for record in records)
    slow = sum(_is_slow(record, rules) for record in records)
    both = sum(_is_late(record, rules) or _is_slow(record, rules) for record in records)
    return {
        "calls": len(records),
        "violations": both / max(len(records), 1),
        "late": late / max(len(records), 1),
        "slow": slow / max(len(records), 1),
        "replica_hours": result.replica_s / 3600,
        "hit_rate": sum(record.cached_tokens for record in records) / max(prompts, 1),
        "ttft_p50_s": percentile(ttfts, 0.5),
        "ttft_p99_s": percentile(ttfts, 0.99),
        "departures": result.departures,
        "missed_tokens": result.missed_tokens,
    }


def _is_late(record: CallRecord, rules: ScalingRules) -> bool:
    return record.ttft_s > rules.ttft_objective_s


def _is_slow(record: CallRecord, rules: ScalingRules) -> bool:
    if not math.isfinite(record.e2e_s):
        return True
    return record.output_tokens >= PACED_TOKENS and 0 < rules.itl_objective_s < record.tpot_s
