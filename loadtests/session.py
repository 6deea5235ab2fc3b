"""A load test from end to end: the platforms that its plan needs, one after the other, and what is played on each."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from aloraserve_services.cli.own_platform import free_port
from loadtests.local import loadtest_platform
from loadtests.pace import measure_pace
from loadtests.plan import LoadPlan, Phase, api_key
from loadtests.runner import Progress, play_phase
from loadtests.samples import Samples
from loadtests.time_fit import TimeLimit
from loadtests.transport import open_transport

ROUTED_POLICY, UNROUTED_POLICY = "expected-ttft", "round-robin"


@dataclass(slots=True)
class Session:
    """See the module's docstring.

    Args:
        plan: what to play; once the first platform runs, what is played of it.
        limit: None plays the whole plan.
        url: a running platform; None starts those that the plan needs.
        unrouted_url: one with ``--policy round-robin``.
        engine: of platforms that are started.
        replicas: of these.
        state_dir: of these.
        transport: of calls, "http" or "grpc".
        grpc_target: ``host:port`` of a running platform's gRPC API.
        say: takes a line of progress.
        samples: what was measured.
        fitted: how the plan was fitted to the limit, in words.
    """

    plan: LoadPlan
    limit: TimeLimit | None
    url: str | None
    unrouted_url: str | None
    engine: str
    replicas: int
    state_dir: Path
    transport: str
    grpc_target: str | None
    say: Progress
    samples: Samples = field(default_factory=Samples)
    fitted: str = ""

    def play(self) -> None:
        """Play the plan.

        Raises:
            StartError: a platform does not start.
            CallFailedError: one does not answer at all.
            NotServedError: one lacks an adapter.
            ValueError: the plan's data cannot be read, or a URL is not accepted.
        """
        if self.url and not self.unrouted_url and self._parts(False):
            self.say("alora-no-router is left out: it needs --unrouted-url, a platform with --policy round-robin")
            self.plan = replace(self.plan, phases=tuple(self._parts(True)))
        self._play(True, self.url)
        self._play(False, self.unrouted_url)

    def _parts(self, is_routed: bool) -> list[Phase]:
        """Return the phases that need a platform of one kind."""
        return [part for phase in self.plan.phases if (part := phase.routed if is_routed else phase.unrouted)]

    def _play(self, is_routed: bool, given: str | None) -> None:
        sizes = dict.fromkeys(part.kv_cache_gib for part in self._parts(is_routed))
        if given and sizes:
            self._play_on(given, is_routed, set(sizes), further_starts=0)
        elif not given:
            for number, size in enumerate(sizes, start=1):
                further_starts = len(sizes) - number + (1 if is_routed and self._parts(False) else 0)
                self._play_on_own(is_routed, size, further_starts)

    def _play_on_own(self, is_routed: bool, kv_cache_gib: float | None, further_starts: int) -> None:
        policy = ROUTED_POLICY if is_routed else UNROUTED_POLICY
        size = f", {kv_cache_gib} GiB KV" if kv_cache_gib else ""
        self.say(f"starting {self.replicas} {self.engine} replicas, policy {policy}{size}")
        port = free_port() if self.transport == "grpc" else None
        with loadtest_platform(
            engine=self.engine,
            replicas=self.replicas,
            policy=policy,
            state_dir=self.state_dir,
            kv_cache_gib=kv_cache_gib,
            grpc_port=port,
        ) as url:
            self.grpc_target = None if port is None else f"127.0.0.1:{port}"
            self._play_on(url, is_routed, {kv_cache_gib}, further_starts)

    def _play_on(self, url: str, is_routed: bool, sizes: set[float | None], further_starts: int) -> None:
        transport = open_transport(url, api_key(), self.grpc_target)
        try:
            if self.limit is not None:
                self.plan, self.fitted = self.limit.fit(self.plan, measure_pace(transport), further_starts)
                self.limit = None
                self.say(self.fitted)
            for part in self._parts(is_routed):
                if part.kv_cache_gib in sizes:
                    play_phase(self.plan, part, transport, self.samples, self.say)
        finally:
            transport.close()
