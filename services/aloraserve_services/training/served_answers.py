"""The same rows through a running platform: one ``POST /v1/intrinsics`` each, a few at a time.

A call that may succeed later is made again by the client, up to three times in all
(:class:`~aloraserve.client.Retries`); what fails then is that row's error.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from aloraserve.adapters import AdapterVersion
from aloraserve.client import CallError, Client, Retries
from aloraserve.errors import TrainingError
from aloraserve.training import TrainingRow
from aloraserve.training.results import ItemResult
from aloraserve.training.scored_form import ScoredForm
from aloraserve_services.models.hardware import Dtype
from aloraserve_services.training.progress import TrainingProgress
from aloraserve_services.training.reference_arms import item_of

MAX_CONCURRENCY = 64
_UNREACHED = (0, 502, 503, 504)
_LEAST_DIGEST = 16
"""Hex digits of a version's digest that tell it from others."""


@dataclass(frozen=True, slots=True)
class PlatformTarget:
    """A running platform, and what it calls the adapters.

    Args:
        url: of it: http, https, grpc or grpcs.
        model: served name of the adapter.
        twin_model: served name of the LoRA twin, None if it is not served.
        api_key: None for a platform without keys.
        concurrency: calls at a time.
        dtype: that its engines compute in, None if it does not say.
    """

    url: str
    model: str
    twin_model: str | None = None
    api_key: str | None = None
    concurrency: int = 4
    dtype: Dtype | None = None


class ServedAnswers:
    """Asks one adapter of a platform. Close it in the end.

    Args:
        target: the platform.
        retries: of its calls.

    Raises:
        TrainingError: the URL is not accepted.
    """

    def __init__(self, target: PlatformTarget, retries: Retries | None = None) -> None:
        self._target = target
        try:
            self._client = Client(target.url, target.api_key, retries=retries or Retries(attempts=3))
        except ValueError as error:
            raise TrainingError(f"--url is not accepted: {error}") from None

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def answers(
        self,
        model: str,
        version: AdapterVersion,
        rows: Sequence[TrainingRow],
        form: ScoredForm,
        progress: TrainingProgress,
    ) -> list[ItemResult]:
        """Return the answers to rows, in their order.

        Args:
            model: served name of the adapter.
            version: the adapter that PEFT has; the platform must serve the same content.
            rows: that are asked about.
            form: of the answers.
            progress: told of each answer.

        Raises:
            TrainingError: the platform cannot be reached, does not serve that adapter, answers with another version
                or without saying which, or answers nothing.
        """
        first = self._asked(model, rows[0])
        self._check_reached(model, first)
        self._check_version(model, version, first)
        step = f"through the platform as {model}"
        results = [first]
        pool = ThreadPoolExecutor(min(self._target.concurrency, MAX_CONCURRENCY), thread_name_prefix="evaluate")
        try:
            for result in pool.map(lambda row: self._asked(model, row), rows[1:]):
                self._check_version(model, version, result)
                progress.advance(step, len(results), len(rows))
                results.append(result)
        finally:
            # After Ctrl-C, or an answer of another version, nobody waits for the rest.
            pool.shutdown(wait=False, cancel_futures=True)
        if not any(result.get("adapter") for result in results):
            raise TrainingError(
                f"the platform at {self._target.url} answered none of {len(rows)} rows as {model!r}, so that nothing "
                f"says which version it serves: {_message(first)}"
            )
        progress.advance(step, len(rows), len(rows))
        return [_item(row, result, form) for row, result in zip(rows, results, strict=True)]

    def _asked(self, model: str, row: TrainingRow) -> dict[str, Any]:
        intrinsic = {"name": model, "fields": dict(row.fields)} if row.fields else model
        documents = {"documents": [dict(document) for document in row.documents]} if row.documents else {}
        try:
            return self._client.intrinsics([dict(message) for message in row.messages], [intrinsic], **documents)[0]
        except CallError as error:
            return {"status": "error", "status_code": error.status, "error": {"message": error.message}}

    def _check_reached(self, model: str, first: dict[str, Any]) -> None:
        where, status = self._target.url, first.get("status_code")
        if first["status"] == "error" and status in _UNREACHED:
            raise TrainingError(f"no platform answers at {where}: {_message(first)}")
        if first["status"] == "error" and status in (400, 401, 403, 404):
            raise TrainingError(f"the platform at {where} does not answer as {model!r}: {_message(first)}")

    def _check_version(self, model: str, version: AdapterVersion, result: dict[str, Any]) -> None:
        """Raise if an answer is another version's, which may be registered at any time, or does not say whose it is."""
        adapter = str(result.get("adapter") or "")
        if not adapter and result["status"] == "error":
            return
        served = adapter.rpartition("@")[2]
        if len(served) < _LEAST_DIGEST:
            raise TrainingError(
                f"the platform at {self._target.url} does not say which version answers as {model!r}; a platform whose "
                "answers have name@digest in 'adapter' is accepted"
            )
        if not version.digest.startswith(served):
            raise TrainingError(
                f"the platform at {self._target.url} serves another version as {model!r}: {served[:12]}, and not "
                f"{version.digest[:12]} of {version.path.name!r}; register that, or name its folder"
            )


def _message(result: dict[str, Any]) -> str:
    return str((result.get("error") or {}).get("message", ""))[:300]


def _item(row: TrainingRow, result: dict[str, Any], form: ScoredForm) -> ItemResult:
    failed = result["status"] == "error"
    error = (_message(result) or "failed") if failed else ""
    return item_of(row, form, result.get("text"), result.get("probability"), error=error)
