"""Faults of a run, and when they happen: ``kill:3@60``, ``redis-outage@100-130``, ``event-loss:0.01``."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from aloraserve.errors import SettingsError

FaultKind = Literal["kill", "restart", "redis-outage", "redis-delay", "event-delay", "event-loss"]
MAX_FAULTS = 1000
ACCEPTED = (
    "kill:REPLICA@S, restart:REPLICA@S, redis-outage@S-S, redis-delay:S[@S-S], event-delay:S[@S-S] and "
    "event-loss:SHARE[@S-S] are accepted"
)
_NUMBER = r"\d{1,9}(?:\.\d{1,9})?"
_SPAN = rf"(?P<start>{_NUMBER})-(?P<end>{_NUMBER})"
_FORMS: dict[FaultKind, re.Pattern[str]] = {
    "kill": re.compile(rf"kill:(?P<value>\d{{1,6}})@(?P<start>{_NUMBER})"),
    "restart": re.compile(rf"restart:(?P<value>\d{{1,6}})@(?P<start>{_NUMBER})"),
    "redis-outage": re.compile(rf"redis-outage@{_SPAN}"),
    "redis-delay": re.compile(rf"redis-delay:(?P<value>{_NUMBER})(?:@{_SPAN})?"),
    "event-delay": re.compile(rf"event-delay:(?P<value>{_NUMBER})(?:@{_SPAN})?"),
    "event-loss": re.compile(rf"event-loss:(?P<value>{_NUMBER})(?:@{_SPAN})?"),
}


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault.

    Args:
        kind: what fails.
        value: the replica's number, the delay in seconds, or the share of batches lost.
        start_s: when it happens or begins, in simulated seconds.
        end_s: when it is over; infinite for what happens once or lasts.
    """

    kind: FaultKind
    value: float = 0.0
    start_s: float = 0.0
    end_s: float = math.inf

    def is_on(self, now_s: float) -> bool:
        """Return whether the fault lasts at ``now_s``."""
        return self.start_s <= now_s < self.end_s


def parse_fault(text: str, replicas: int) -> Fault:
    """Return the fault that a flag names.

    Raises:
        SettingsError: it is none, or names a replica that the fleet does not have.
    """
    matches = [(kind, match) for kind, form in _FORMS.items() if (match := form.fullmatch(text))]
    if not matches:
        raise SettingsError(f"fault is {text!r}; {ACCEPTED}")
    kind, match = matches[0]
    numbers = {name: float(part) for name, part in match.groupdict().items() if part is not None}
    fault = Fault(kind, numbers.get("value", 0.0), numbers.get("start", 0.0), numbers.get("end", math.inf))
    if kind in ("kill", "restart") and fault.value >= replicas:
        raise SettingsError(f"fault is {text!r}; replicas are numbered 0 to {replicas - 1}")
    if kind == "event-loss" and fault.value > 1:
        raise SettingsError(f"fault is {text!r}; a share from 0 to 1 is accepted")
    if fault.end_s <= fault.start_s:
        raise SettingsError(f"fault is {text!r}; it must end after it begins")
    return fault


def parse_faults(texts: Sequence[str], replicas: int) -> tuple[Fault, ...]:
    """Return the faults that flags name.

    Raises:
        SettingsError: one is wrong, or there are more than ``MAX_FAULTS``.
    """
    if len(texts) > MAX_FAULTS:
        raise SettingsError(f"{len(texts)} faults are given; at most {MAX_FAULTS} are accepted")
    return tuple(parse_fault(text, replicas) for text in texts)
