"""Requests made from the API's own description, right and wrong ones, against a server that must answer each clearly.

python -m support.api_fuzz --url http://127.0.0.1:8000 --cases 3000   (make fuzz-api)
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
import schemathesis
from hypothesis import HealthCheck, Phase, given
from hypothesis import seed as seeded
from hypothesis import settings as hypothesis_settings
from schemathesis import GenerationMode

SLOW_S = 30.0
SHOWN = 20
MAX_TOKENS = 4
_CALLS = ("/v1/chat/completions", "/v1/completions", "/v1/intrinsics")


@dataclass
class Outcome:
    """What came of all cases.

    Args:
        statuses: how many answers had which, by path.
        faults: answers that are none: what was sent, and what is wrong.
        slowest_s: of an answer.
    """

    statuses: Counter[tuple[str, int]] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    slowest_s: float = 0.0

    @property
    def cases(self) -> int:
        """How many there were."""
        return sum(self.statuses.values())


def fuzz(
    client: httpx.Client,
    cases: int,
    *,
    seed: int = 0,
    models: Sequence[str] = (),
    unavailable: Sequence[str] = (),
    outcome: Outcome | None = None,
) -> Outcome:
    """Send requests to every operation of the description at ``/openapi.json``.

    Args:
        client: of the server.
        cases: in all, about.
        seed: of what is sent.
        models: names that are served; without them no call gets past its model.
        unavailable: how paths begin that may say 503, because what they tell of is not there.
        outcome: that is added to.
    """
    schema = schemathesis.openapi.from_dict(client.get("/openapi.json").json())
    operations = [found.ok() for found in schema.get_all_operations()]
    outcome = outcome or Outcome()
    # Where there is nothing to vary one request is all there is.
    each = max(1, cases // (2 * sum(bool(operation.body or operation.query) for operation in operations)))
    for number, operation in enumerate(operations):
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            if mode is GenerationMode.NEGATIVE and not (operation.body or operation.query):
                # There is nothing to get wrong.
                continue

            @seeded(seed + number)
            @hypothesis_settings(
                max_examples=each,
                database=None,
                deadline=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            @given(case=operation.as_strategy(generation_mode=mode))
            def send(case: Any) -> None:
                _send(client, case, outcome, models, unavailable)

            send()
    return outcome


def _send(client: httpx.Client, case: Any, outcome: Outcome, models: Sequence[str], unavailable: Sequence[str]) -> None:
    _bound(case, models, outcome.cases)
    request = case.as_transport_kwargs(base_url=str(client.base_url).rstrip("/"))
    sent = {name: request.get(name) for name in ("json", "data", "params")}
    method, url = request["method"], request["url"]
    content: dict[str, Any] = {"json": sent["json"]} if sent["json"] is not None else {"content": sent["data"]}
    begun = time.monotonic()
    try:
        answer = client.request(method, url, params=sent["params"], headers=request.get("headers"), **content)
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        if isinstance(error, httpx.HTTPError):
            outcome.faults.append(f"{method} {url}: {type(error).__name__}; sent {str(sent)[:300]}")
        return
    taken = time.monotonic() - begun
    outcome.slowest_s = max(outcome.slowest_s, taken)
    outcome.statuses[case.operation.path, answer.status_code] += 1
    if fault := _fault(answer, taken, is_excused=case.operation.path.startswith(tuple(unavailable))):
        outcome.faults.append(f"{method} {url}: {fault}; sent {str(sent)[:300]}")


def _bound(case: Any, models: Sequence[str], number: int) -> None:
    """Name a model that is served in every other call, and have none generate for long."""
    if not isinstance(case.body, dict):
        return
    if case.operation.path in _CALLS and "max_tokens" in case.body and isinstance(case.body["max_tokens"], int):
        case.body["max_tokens"] = min(case.body["max_tokens"], MAX_TOKENS)
    if case.operation.path in _CALLS:
        case.body.setdefault("max_tokens", MAX_TOKENS)
        case.body.pop("max_completion_tokens", None)
    if models and "model" in case.body and number % 2:
        case.body["model"] = models[number % len(models)]


def _fault(answer: httpx.Response, taken_s: float, *, is_excused: bool) -> str | None:
    if answer.status_code >= 500 and not (is_excused and answer.status_code == 503):
        return f"status {answer.status_code} {answer.text[:300]}"
    if taken_s > SLOW_S:
        return f"took {taken_s:.1f} s"
    if "Traceback" in answer.text:
        return "a traceback"
    if answer.status_code >= 400 and answer.content:
        try:
            assert isinstance(answer.json()["error"]["message"], str)
        except (ValueError, KeyError, TypeError, AssertionError):
            return f"an error without a message: {answer.text[:200]}"
    return None


def main(arguments: Sequence[str] | None = None) -> int:
    """Fuzz a running platform; return how many faults there were, at most 1."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="of the platform")
    parser.add_argument("--cases", type=int, default=3000, help="in all, about")
    parser.add_argument("--seed", type=int, default=0, help="of what is sent")
    given_arguments = parser.parse_args(arguments)
    with httpx.Client(base_url=given_arguments.url, timeout=2 * SLOW_S, trust_env=False) as client:
        models = [model["id"] for model in client.get("/v1/models").json()["data"]]
        outcome = Outcome()
        # Whoever stops it sees what was found until then.
        with contextlib.suppress(KeyboardInterrupt):
            fuzz(client, given_arguments.cases, seed=given_arguments.seed, models=models, outcome=outcome)
    for (path, status), count in sorted(outcome.statuses.items()):
        print(f"{count:6} {status} {path}")
    print(f"{outcome.cases} cases, {len(outcome.faults)} faults, slowest answer {outcome.slowest_s:.2f} s")
    print(*outcome.faults[:SHOWN], sep="\n", file=sys.stderr)
    return min(1, len(outcome.faults))


if __name__ == "__main__":
    raise SystemExit(main())
