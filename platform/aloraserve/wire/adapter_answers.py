"""What is known of adapters as JSON types."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import msgspec

from aloraserve.adapters import CheckReport
from aloraserve.adapters.catalog import CURRENT, AdapterEntry, AdapterRecord, Alias
from aloraserve.adapters.checks import ActivationProof
from aloraserve.adapters.management import Registration, Usage
from aloraserve.wire.errors import reply_for


def entry_json(entry: AdapterEntry, usage: Usage | None = None) -> dict[str, Any]:
    """Return a version.

    Args:
        entry: of the catalog.
        usage: where it is; None if nobody looked.
    """
    content: dict[str, Any] = {"object": "adapter", "id": entry.shown}
    content |= msgspec.to_builtins(msgspec.structs.asdict(entry))
    content |= {"state": entry.state.value, "reason": entry.reason, "registered_at": entry.registered_at}
    content |= {"input": entry.input_form, "output": entry.output_form}
    if entry.kind == "lora":
        content["invocation"] = None
    return content if usage is None else content | {name: list(labels) for name, labels in asdict(usage).items()}


def record_json(record: AdapterRecord) -> dict[str, Any]:
    """Return all that is known of a name, without where its versions are."""
    return {
        "object": "adapter.record",
        "name": record.name,
        "versions": [entry_json(entry) for entry in record.live],
        "aliases": [_alias_json(record.name, name, alias) for name, alias in sorted(record.aliases.items())],
    }


def report_json(report: CheckReport) -> dict[str, Any]:
    """Return the result of a check: whether it is accepted, all problems, and the facts."""
    facts = msgspec.to_builtins(asdict(report.facts), enc_hook=str)
    problems = [asdict(problem) | {"text": problem.text} for problem in report.problems]
    return {
        "object": "adapter.report",
        "accepted": report.is_accepted,
        "problems": problems,
        "omitted": report.omitted,
        "facts": facts,
        "activation": None if report.proof is None else _proof_json(report.proof),
    }


def outcome_json(registration: Registration) -> dict[str, Any]:
    """Return what came of a registration that has ended."""
    error, report = registration.error, registration.report
    return registration.as_dict() | {
        "error": None if error is None else reply_for(error).body["error"],
        "entry": None if registration.entry is None else entry_json(registration.entry),
        "report": None if report is None else report_json(report),
    }


def _proof_json(proof: ActivationProof) -> dict[str, Any]:
    """Return an example as an aLoRA gets it, its tokens before and behind the activation point."""
    return {
        "proven": proof.is_proven,
        "mode": None if proof.mode is None else proof.mode.value,
        "invocation_text": proof.invocation_text,
        "invocation_ids": list(proof.invocation_ids),
        "activation": proof.activation,
        "prompt_tokens": proof.prompt_tokens,
        "marked": proof.marked,
        "before": [token._asdict() for token in proof.before],
        "after": [token._asdict() for token in proof.after],
    }


def _alias_json(adapter: str, name: str, alias: Alias) -> dict[str, Any]:
    return {
        "object": "adapter.alias",
        "id": adapter if name == CURRENT else f"{adapter}@{name}",
        "alias": name,
        "shares": msgspec.to_builtins([msgspec.structs.asdict(share) for share in alias.shares]),
        "previous": msgspec.to_builtins([msgspec.structs.asdict(share) for share in alias.previous]),
        "at": alias.at,
        "reason": alias.reason,
    }
