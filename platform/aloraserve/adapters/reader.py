"""From a folder to a version that engines can load: read, checked, and copied to where nobody edits it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from aloraserve.adapters.base import AdapterRef, AdapterVersion
from aloraserve.adapters.checks import CheckReport, check_adapter
from aloraserve.adapters.intrinsics.spec import IntrinsicSpec
from aloraserve.adapters.limits import AdapterLimits
from aloraserve.adapters.peft_files import check_name, read_files
from aloraserve.adapters.problems import Problem, ProblemCode
from aloraserve.adapters.shape import BaseShape
from aloraserve.adapters.store import AdapterStore
from aloraserve.errors import InvalidAdapterError


@dataclass(frozen=True)
class AdapterReader:
    """Reads adapters for one base model. From any thread.

    Args:
        base: shape of the base model.
        base_names: names that the base model is served under, which no adapter may take.
        max_rank: the highest rank that is accepted.
        limits: what the engines have room for; None while none has started.
        store: where versions are copied to; without it a version's path is the folder itself.
        form_fault: says why engines cannot hold answers to an intrinsic's form, an empty string if they can; None: that
            is not looked at.
    """

    base: BaseShape
    base_names: Sequence[str] = ()
    max_rank: int = 64
    limits: AdapterLimits | None = None
    store: AdapterStore | None = None
    form_fault: Callable[[IntrinsicSpec], str] | None = None

    def read(self, name: str, folder: Path) -> AdapterVersion:
        """Return the version that ``folder`` holds.

        Raises:
            InvalidAdapterError: it cannot be served; says why. Its cause is an OSError if another time may do better.
        """
        check_name(name)
        if name in self.base_names:
            raise InvalidAdapterError(f"the adapter's name {name!r} is the base model's; rename its folder")
        version = self.check(folder).version(name, folder)
        if self.store is None:
            return version
        return replace(version, path=self.store.put(version.digest, read_files(folder)))

    def check(self, folder: Path) -> CheckReport:
        """Return the report on the adapter in ``folder``, with what the engines here cannot do. Raises nothing."""
        report = check_adapter(folder, base=self.base, max_rank=self.max_rank)
        facts = report.facts
        room = [] if self.limits is None else self.limits.problems(facts.target_modules, facts.rank or 0)
        return replace(report, problems=(*report.problems, *room, *self._form_problems(facts.intrinsic)))

    def find(self, ref: AdapterRef, folder: Path) -> AdapterVersion | None:
        """Return exactly that version, from the store or else from ``folder``; None if neither has that content."""
        stored = self.store.get(ref.digest) if self.store is not None else None
        for place in (stored, folder):
            version = None if place is None else self._try(ref.name, place)
            if version is not None and version.digest == ref.digest:
                return version
        return None

    def _form_problems(self, spec: IntrinsicSpec | None) -> list[Problem]:
        if spec is None or self.form_fault is None or not (fault := self.form_fault(spec)):
            return []
        accepted = "a form that engines can hold an answer to"
        return [Problem(ProblemCode.INTRINSIC, "", f"the intrinsic's form cannot be used: {fault}", accepted)]

    def _try(self, name: str, folder: Path) -> AdapterVersion | None:
        try:
            return self.read(name, folder)
        except InvalidAdapterError:
            return None
