"""Panels of the dashboards, with their queries. ``dashboards.py`` writes Grafana's JSON from it."""

from __future__ import annotations

from dataclasses import dataclass

RATE = "[$__rate_interval]"


@dataclass(frozen=True)
class Query:
    """One line of a panel: PromQL, and what its series are called."""

    expr: str
    legend: str


@dataclass(frozen=True)
class Panel:
    """A chart over time.

    Args:
        title: of the panel.
        unit: Grafana's name of it.
        queries: at least one.
        description: what to read from it.
    """

    title: str
    unit: str
    queries: tuple[Query, ...]
    description: str


@dataclass(frozen=True)
class Dashboard:
    """Panels under one title.

    Args:
        uid: stays the same for ever: links point to it.
        title: of the dashboard.
        panels: two to a row.
    """

    uid: str
    title: str
    panels: tuple[Panel, ...]


def quantile(share: float, histogram: str, by: str, where: str = "") -> str:
    """Return the query of a histogram's quantile."""
    return f"histogram_quantile({share:g}, sum by ({by}, le) (rate({histogram}_bucket{where}{RATE})))"


def quantiles(histogram: str, by: str, where: str = "") -> tuple[Query, ...]:
    """Return the queries of median, 90th and 99th percentile, by a label."""
    return tuple(
        Query(quantile(share, histogram, by, where), f"p{100 * share:g} {{{{{by}}}}}") for share in (0.5, 0.9, 0.99)
    )


def per_second(counter: str, by: str) -> Query:
    """Return the query of a counter's rate, by a label."""
    return Query(f"sum by ({by}) (rate({counter}{RATE}))", f"{{{{{by}}}}}")


def share(part: str, whole: str, by: str, legend: str = "") -> Query:
    """Return the query of one counter's share of another, by a label."""
    return Query(f"sum by ({by}) (rate({part}{RATE})) / sum by ({by}) (rate({whole}{RATE}))", legend or f"{{{{{by}}}}}")


def each(gauge: str, legend: str = "{{process}}") -> Query:
    """Return the query of a gauge as it is."""
    return Query(gauge, legend)


FLEET = Dashboard(
    "aloraserve-fleet",
    "aloraserve: fleet",
    (
        Panel("Requests", "reqps", (per_second("aloraserve_requests_total", "status"),), "By HTTP status."),
        Panel("In progress", "short", (each("aloraserve_requests_in_progress"),), "Calls being answered, by gateway."),
        Panel("TTFT", "s", quantiles("aloraserve_ttft_seconds", "kind"), "Decision to first chunk, retries included."),
        Panel("E2E", "s", quantiles("aloraserve_e2e_seconds", "kind"), "Arrival to the end of the answer."),
        Panel("ITL", "s", quantiles("aloraserve_itl_seconds", "kind"), "Time between two tokens at the gateway."),
        Panel(
            "Decision", "s", quantiles("aloraserve_decision_seconds", "stage"), "What a routing decision spent where."
        ),
        Panel(
            "TTFT against the estimate",
            "s",
            tuple(
                Query(quantile(share, "aloraserve_estimate_error_seconds", "kind"), f"p{100 * share:g} {{{{kind}}}}")
                for share in (0.1, 0.5, 0.9)
            ),
            "Actual less expected: below 0 calls were faster than expected. A median far from 0 is a bias.",
        ),
        Panel(
            "Cached share of prompts",
            "percentunit",
            (share("aloraserve_cached_tokens_total", "aloraserve_prompt_tokens_total", "kind"),),
            "Prompt tokens that were not prefilled.",
        ),
        Panel(
            "Promised and missed",
            "percentunit",
            (share("aloraserve_overlap_missed_tokens_total", "aloraserve_overlap_tokens_total", "kind"),),
            "Share of the tokens that decisions counted on and that were prefilled all the same.",
        ),
        Panel(
            "How far prompts are reused",
            "percentunit",
            (
                Query(
                    f'sum by (rung) (rate(aloraserve_reusable_tokens_total{{rung!="prompt"}}{RATE}))'
                    f' / ignoring(rung) group_left sum(rate(aloraserve_reusable_tokens_total{{rung="prompt"}}{RATE}))',
                    "{{rung}}",
                ),
            ),
            "Of prompts: in an endless cache, in one of the fleet's size, with perfect routing, predicted, delivered.",
        ),
        Panel(
            "Prefilled again",
            "short",
            (per_second("aloraserve_unreused_tokens_total", "cause"),),
            "Tokens a second that somebody held, or had held, by why they were not used.",
        ),
        Panel(
            "Decisions by policy", "reqps", (per_second("aloraserve_decisions_total", "policy"),), "Of answered calls."
        ),
        Panel("Fallbacks", "reqps", (per_second("aloraserve_fallbacks_total", "reason"),), "Without the directory."),
        Panel("Claims", "reqps", (per_second("aloraserve_claims_total", "outcome"),), "What became of them."),
        Panel(
            "Attempts", "reqps", (per_second("aloraserve_attempts_total", "outcome"),), "Each replica that was tried."
        ),
        Panel(
            "Directory, p99 by call",
            "s",
            (Query(quantile(0.99, "aloraserve_directory_seconds", "call"), "{{call}}"),),
            "As gateways and replicas see it.",
        ),
        Panel(
            "Directory calls by outcome",
            "reqps",
            (per_second("aloraserve_directory_seconds_count", "outcome"),),
            "Given up by the caller: cancelled.",
        ),
        Panel("Directory: blocks held", "short", (each("aloraserve_held_blocks"),), "Its size, by replica."),
        Panel(
            "Directory: staleness",
            "s",
            (each("aloraserve_directory_silence_seconds"),),
            "Since the directory last took a replica's heartbeat; from 2 s on its lease is lost.",
        ),
        Panel(
            "Tenants: tokens",
            "short",
            (Query(f"sum by (tenant, kind) (rate(aloraserve_tenant_tokens_total{RATE}))", "{{tenant}} {{kind}}"),),
            "Per second, of prompts and answers; without a name: callers without a tenant.",
        ),
        Panel(
            "Tenants: refusals",
            "reqps",
            (
                Query(f"sum by (tenant, limit) (rate(aloraserve_tenant_refusals_total{RATE}))", "{{tenant}} {{limit}}"),
                Query(f"sum(rate(aloraserve_limits_unavailable_total{RATE}))", "limits without Redis"),
            ),
            "Calls over a limit of their tenant's own, and calls for which Redis did not answer about limits.",
        ),
        Panel("CPU", "short", (Query(f"rate(process_cpu_seconds_total{RATE})", "{{process}}"),), "Cores, by process."),
        Panel("Memory", "bytes", (each("process_resident_memory_bytes"),), "Resident, by process."),
    ),
)

ADAPTERS = Dashboard(
    "aloraserve-adapters",
    "aloraserve: adapters",
    (
        Panel("Calls", "reqps", (per_second("aloraserve_ttft_seconds_count", "adapter"),), "Empty: the base model."),
        Panel(
            "TTFT, p90",
            "s",
            (Query(quantile(0.9, "aloraserve_ttft_seconds", "adapter"), "{{adapter}}"),),
            "By adapter.",
        ),
        Panel(
            "E2E, p90", "s", (Query(quantile(0.9, "aloraserve_e2e_seconds", "adapter"), "{{adapter}}"),), "By adapter."
        ),
        Panel(
            "Cached share of prompts",
            "percentunit",
            (share("aloraserve_cached_tokens_total", "aloraserve_prompt_tokens_total", "adapter"),),
            "Prompt tokens that were not prefilled.",
        ),
        Panel("Generated tokens", "short", (per_second("aloraserve_generated_tokens_total", "adapter"),), "A second."),
        Panel(
            "Where it is loaded",
            "short",
            (Query("sum by (adapter, level) (aloraserve_adapter_loaded)", "{{adapter}} {{level}}"),),
            "Replicas that have it in a slot, and in the host's memory alone.",
        ),
        Panel(
            "Calls that find it loaded",
            "percentunit",
            (
                Query(
                    f"sum(rate(aloraserve_adapter_hits_total{RATE})) / (sum(rate(aloraserve_adapter_hits_total{RATE})) "
                    f"+ sum(rate(aloraserve_adapter_loads_total{RATE})))",
                    "all",
                ),
            ),
            "The others wait for a load.",
        ),
        Panel(
            "Time of a load, p90",
            "s",
            (
                Query(
                    "histogram_quantile(0.9, sum by (process, le) (aloraserve_adapter_load_seconds_bucket))",
                    "{{process}}",
                ),
            ),
            "Since the replica began: loads are rare. The check of its files included.",
        ),
        Panel("Evictions", "short", (per_second("aloraserve_adapter_evictions_total", "adapter"),), "A second."),
        Panel(
            "Loads",
            "short",
            (Query("sum by (adapter) (increase(aloraserve_adapter_loads_total[1h]))", "{{adapter}}"),),
            "In the last hour.",
        ),
        Panel("Loaded adapters", "short", (each("aloraserve_resident_adapters"),), "By replica."),
        Panel("Active adapters", "short", (each("aloraserve_active_adapters"),), "Of accepted requests, by replica."),
    ),
)

ENGINE = Dashboard(
    "aloraserve-engine",
    "aloraserve: engines",
    (
        Panel(
            "Requests",
            "short",
            (
                each("aloraserve_running_requests", "running {{process}}"),
                each("aloraserve_waiting_requests", "waiting {{process}}"),
            ),
            "As published with the lease.",
        ),
        Panel("Queued prefill", "s", (each("aloraserve_queued_prefill_seconds"),), "Expected time of waiting prompts."),
        Panel("Queue", "s", quantiles("aloraserve_queue_seconds", "kind"), "Arrival to the begin of the prefill."),
        Panel("Prefill", "s", quantiles("aloraserve_prefill_seconds", "kind"), "To the first token."),
        Panel("Decode", "s", quantiles("aloraserve_decode_seconds", "kind"), "First token to last."),
        Panel("KV pressure", "percentunit", (each("aloraserve_kv_usage_ratio"),), "Blocks that running requests use."),
        Panel(
            "KV tokens",
            "short",
            (
                each("aloraserve_kv_active_tokens", "active {{process}}"),
                each("aloraserve_kv_capacity_tokens", "capacity {{process}}"),
            ),
            "Of accepted requests, and what there is room for.",
        ),
        Panel(
            "Prefill rate", "short", (each("aloraserve_prefill_tokens_per_second"),), "Tokens per second, undisturbed."
        ),
        Panel(
            "Engine events",
            "short",
            (Query(f"sum by (process) (rate(aloraserve_ingest_events_total{RATE}))", "{{process}}"),),
            "Taken in, a second.",
        ),
        Panel(
            "Lost and repeated",
            "short",
            (
                Query(f"sum(rate(aloraserve_ingest_gaps_total{RATE}))", "gaps"),
                Query(f"sum(rate(aloraserve_ingest_overflows_total{RATE}))", "overflows"),
                Query(f"sum(rate(aloraserve_ingest_push_failures_total{RATE}))", "failed pushes"),
                Query(f"sum(rate(aloraserve_ingest_heartbeat_failures_total{RATE}))", "failed heartbeats"),
                Query(f"sum(rate(aloraserve_ingest_republishes_total{RATE}))", "republished"),
                Query(f"sum(rate(aloraserve_ingest_dropped_events_total{RATE}))", "dropped events"),
            ),
            "A second.",
        ),
        Panel("Changes to be pushed", "short", (each("aloraserve_ingest_pending"),), "Not yet in the directory."),
        Panel(
            "vLLM: requests",
            "short",
            (
                each("vllm:num_requests_running", "running {{process}}"),
                each("vllm:num_requests_waiting", "waiting {{process}}"),
            ),
            "In vLLM's scheduler.",
        ),
        Panel("vLLM: KV usage", "percentunit", (each("vllm:kv_cache_usage_perc"),), "As vLLM counts it."),
        Panel(
            "vLLM: prefix cache hits",
            "percentunit",
            (share("vllm:prefix_cache_hits_total", "vllm:prefix_cache_queries_total", "process"),),
            "Share of the tokens asked for.",
        ),
        Panel(
            "vLLM: tokens",
            "short",
            (
                Query(f"sum by (process) (rate(vllm:prompt_tokens_total{RATE}))", "prompt {{process}}"),
                Query(f"sum by (process) (rate(vllm:generation_tokens_total{RATE}))", "generated {{process}}"),
            ),
            "A second.",
        ),
        Panel("vLLM: TTFT", "s", quantiles("vllm:time_to_first_token_seconds", "process"), "In the engine alone."),
        Panel("vLLM: ITL", "s", quantiles("vllm:inter_token_latency_seconds", "process"), "In the engine alone."),
        Panel(
            "vLLM: preemptions",
            "short",
            (Query(f"sum by (process) (rate(vllm:num_preemptions_total{RATE}))", "{{process}}"),),
            "A second: the KV cache is too small.",
        ),
        Panel(
            "aLoRA: tokens by effect",
            "short",
            (per_second("vllm_alora_tokens_total", "effect"),),
            "Masked ones are the base model's.",
        ),
        Panel(
            "aLoRA: shared with the base model",
            "short",
            (Query(f"sum by (process) (rate(vllm_alora_cross_adapter_cached_tokens_total{RATE}))", "{{process}}"),),
            "Cached prompt tokens per second that an adapter-keyed cache would not have shared.",
        ),
    ),
)


def net(by: str, window: str = RATE) -> str:
    """Return the query of TTFT saved less lost, by a label, per second."""
    saved, lost = (
        f"sum by ({by}) (rate(aloraserve_{effect}_ttft_seconds_total{window}))" for effect in ("saved", "lost")
    )
    return f"({saved} - {lost})"


def would_have_been(by: str, part: str) -> str:
    """Return the query of the counterfactual TTFT's sum or count, by a label, per second."""
    return f"sum by ({by}) (rate(aloraserve_counterfactual_ttft_seconds_{part}{RATE}))"


ALORA = '{kind="alora"}'
SAVINGS = Dashboard(
    "aloraserve-savings",
    "aloraserve: savings",
    (
        Panel("Saved TTFT", "s", (per_second("aloraserve_saved_ttft_seconds_total", "kind"),), "Seconds per second."),
        Panel("Lost TTFT", "s", (per_second("aloraserve_lost_ttft_seconds_total", "kind"),), "Of slower calls."),
        Panel(
            "Saved of a call",
            "s",
            (Query(f"{net('kind')} / {would_have_been('kind', 'count')}", "{{kind}}"),),
            "Mean TTFT that a call would have had with a cache keyed by adapter, less the one it had.",
        ),
        Panel(
            "Saved share of TTFT",
            "percentunit",
            (Query(f"{net('adapter')} / {would_have_been('adapter', 'sum')}", "{{adapter}}"),),
            "Of the TTFT that calls would have had, by adapter; empty: the base model.",
        ),
        Panel(
            "aLoRA: TTFT with and without",
            "s",
            tuple(
                Query(
                    f"histogram_quantile({share:g}, sum by (le) (rate({metric}_bucket{ALORA}{RATE})))",
                    f"{what} p{100 * share:g}",
                )
                for what, metric in (
                    ("with", "aloraserve_ttft_seconds"),
                    ("without", "aloraserve_counterfactual_ttft_seconds"),
                )
                for share in (0.5, 0.9)
            ),
            "As it was, and as a cache keyed by adapter would have made it.",
        ),
        Panel(
            "Saved prefill tokens",
            "short",
            (per_second("aloraserve_saved_prefill_tokens_total", "adapter"),),
            "A second, by adapter.",
        ),
        Panel(
            "Cached tokens by source",
            "short",
            (per_second("aloraserve_cached_tokens_by_source_total", "source"),),
            "A second: computed first by a call of the same adapter, the base model, another adapter.",
        ),
        Panel(
            "Saved in the last hour",
            "s",
            (Query(f"3600 * {net('adapter', '[1h]')}", "{{adapter}}"),),
            "TTFT, less what was lost, by adapter.",
        ),
        Panel(
            "Lost figures",
            "short",
            (Query("sum(increase(aloraserve_savings_ledger_failures_total[1h]))", "failed flushes"),),
            "Flushes to the fleet's ledger that failed in the last hour; these metrics do not need it.",
        ),
    ),
)

SCALING = Dashboard(
    "aloraserve-scaling",
    "aloraserve: autoscaling",
    (
        Panel(
            "Replicas",
            "short",
            (
                Query("max by (state) (aloraserve_scaling_replicas)", "{{state}}"),
                Query("sum(aloraserve_lease_alive)", "with a lease"),
            ),
            "What the load needs, the target within bounds and cool-downs, and what there is.",
        ),
        Panel(
            "Why",
            "short",
            (Query("max by (reason) (aloraserve_scaling_reason)", "{{reason}}"),),
            "1 for what the target comes from.",
        ),
        Panel(
            "Changes of the target",
            "short",
            (Query(f"sum by (direction) (increase(aloraserve_scaling_changes_total{RATE}))", "{{direction}}"),),
            "Both ways within minutes: the cool-downs are too short.",
        ),
        Panel(
            "Load",
            "short",
            (
                Query("max by (kind) (aloraserve_scaling_load_seconds_per_second)", "{{kind}}"),
                Query('max(aloraserve_scaling_replicas{state="running"})', "replicas"),
            ),
            "Seconds of engines' work that arrive per second: that many replicas are busy all the time.",
        ),
        Panel(
            "Expected times",
            "s",
            (
                Query("max(aloraserve_scaling_expected_ttft_seconds)", "TTFT"),
                Query("max(aloraserve_scaling_expected_itl_seconds)", "between tokens"),
                Query(quantile(0.9, "aloraserve_ttft_seconds", "role"), "TTFT p90, measured"),
            ),
            "With the target, beside what calls have.",
        ),
        Panel(
            "Queued prefill",
            "s",
            (Query("max(aloraserve_scaling_backlog_seconds)", "all engines"),),
            "Work that waits in engines and gateways.",
        ),
        Panel(
            "Replicas that were stopped",
            "short",
            (Query(f"sum by (chosen_by) (increase(aloraserve_scaling_stops_total{RATE}))", "by {{chosen_by}}"),),
            "By worth: what they held was worth least. By serve: the newest, as nothing was known.",
        ),
        Panel(
            "Cached share of prompts",
            "percentunit",
            (share("aloraserve_cached_tokens_total", "aloraserve_prompt_tokens_total", "role", "all calls"),),
            "What a change of the fleet costs shows here.",
        ),
        Panel(
            "A replica's start",
            "s",
            (Query("max(aloraserve_scaling_replica_start_seconds)", "start"),),
            "From a decision until it takes calls; the load is foreseen for that long.",
        ),
        Panel(
            "Failures",
            "short",
            (Query(f"sum by (part) (increase(aloraserve_scaling_failures_total{RATE}))", "{{part}}"),),
            "Parts of decisions that failed. What there is stays, or Serve's counts decide.",
        ),
    ),
)

DASHBOARDS = (FLEET, SCALING, SAVINGS, ADAPTERS, ENGINE)
