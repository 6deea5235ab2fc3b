"""What a router reads of an engine, under vLLM's names."""

from __future__ import annotations

from aloraserve_services.bare_engine.engine import BareEngine


def metrics_text(bare: BareEngine) -> str:
    """Return the engine's state in Prometheus's text format."""
    scheduler, tokens, usage = bare.engine.scheduler, bare.tokens, bare.engine.kv_usage
    waiting = scheduler.num_waiting
    values = (
        ("vllm:num_requests_running", "gauge", len(scheduler.requests) - waiting),
        ("vllm:num_requests_waiting", "gauge", waiting),
        ("vllm:kv_cache_usage_perc", "gauge", usage),
        # Its name before vLLM 0.10.
        ("vllm:gpu_cache_usage_perc", "gauge", usage),
        ("vllm:prefix_cache_queries", "counter", tokens.prompt),
        ("vllm:prefix_cache_hits", "counter", tokens.cached),
        ("vllm:prompt_tokens", "counter", tokens.prompt),
        ("vllm:generation_tokens", "counter", tokens.generated),
    )
    return "".join(_sample(bare.plan.served_name, *value) for value in values)


def _sample(model: str, name: str, kind: str, value: float) -> str:
    sample = f"{name}_total" if kind == "counter" else name
    return f'# TYPE {sample} {kind}\n{sample}{{engine="0",model_name="{model}"}} {value:g}\n'
