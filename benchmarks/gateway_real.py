"""The gateway benchmark on real engines: the packaged model on vLLM's CPU build, beside bare ``vllm serve``."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from aloraserve.settings import Settings
from aloraserve_services.cli.own_platform import free_port
from benchmarks.gateway_calls import Arm, Bodies, interleaved_ttft, repeated, turn
from benchmarks.gateway_result import OF_BARE, STREAM_TOKENS_PER_S, ArmResult, add_ttft
from benchmarks.harness.bare_engines import server_process, wait_for_health

STREAMS, CALLS = 16, 32
PROMPT_TOKENS, ANSWER_TOKENS = 100, 64
TTFT_CALLS, TTFT_PROMPTS = 60, 3
START_TIMEOUT_S = 240.0
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "TORCHDYNAMO_DISABLE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    # Without this project's plugin: vLLM as it comes.
    "VLLM_PLUGINS": "",
}


@contextlib.contextmanager
def vllm_servers(settings: Settings, model: Path) -> Iterator[tuple[str, ...]]:
    """Run as many ``vllm serve`` as the platform has replicas, with the same engine arguments; yield their addresses.

    Raises:
        StartError: one does not start.
    """
    engine = (
        *("--served-model-name", model.name, "--dtype", "float32", "--enforce-eager"),
        *("--max-model-len", str(settings.max_model_len), "--block-size", str(settings.block_tokens)),
        *("--max-num-seqs", str(settings.max_num_seqs)),
        *("--kv-cache-memory-bytes", str(int(settings.kv_cache_gib * (1 << 30)))),
    )
    # What `vllm serve` runs; the CPU build's `vllm` command does not find its own version.
    program = (sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model))
    with contextlib.ExitStack() as stack:
        servers = []
        for _ in range(settings.replicas):
            port = free_port()
            process = stack.enter_context(server_process((*program, "--port", str(port), *engine), ENVIRONMENT))
            servers.append((f"http://127.0.0.1:{port}", process))
        yield tuple(wait_for_health(url, process, START_TIMEOUT_S) for url, process in servers)


async def measure_real(arms: Sequence[Arm], bodies: Bodies, rounds: int) -> list[ArmResult]:
    """Return throughput and TTFT of all arms, in turns.

    Args:
        arms: the bare servers last.
        bodies: to send.
        rounds: of the throughput.
    """
    results = [ArmResult(arm.name) for arm in arms]
    for number in range(rounds):
        pairs = list(zip(arms, results, strict=True))
        for arm, result in pairs if number % 2 else reversed(pairs):
            made = repeated(lambda: bodies.fresh(PROMPT_TOKENS, ANSWER_TOKENS, stream=True), CALLS)
            played = await turn(arm, made, at_once=STREAMS)
            result.samples[STREAM_TOKENS_PER_S].append(CALLS * ANSWER_TOKENS / played.seconds)
    for result in results:
        bare = results[-1].samples[STREAM_TOKENS_PER_S]
        result.samples[OF_BARE] += [
            own / other for own, other in zip(result.samples[STREAM_TOKENS_PER_S], bare, strict=True)
        ]
    add_ttft(results, await interleaved_ttft(arms, bodies, TTFT_CALLS, TTFT_PROMPTS))
    return results
