"""The report on one adapter: all its problems at once, and the facts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from aloraserve.adapters.base import AdapterKind, AdapterVersion
from aloraserve.adapters.checks.activation import ActivationProof
from aloraserve.adapters.checks.sidecar import Sidecar
from aloraserve.adapters.intrinsics.spec import IntrinsicSpec
from aloraserve.adapters.problems import Problem
from aloraserve.errors import InvalidAdapterError

MAX_PER_CODE = 5
"""Problems of one kind that a report lists; an adapter has hundreds of tensors."""
REASON_PROBLEMS = 3


@dataclass(frozen=True, slots=True)
class AdapterFacts:
    """Facts about an adapter, as far as its files say them.

    Args:
        kind: "alora" if it has an invocation, else "lora".
        rank: LoRA rank; None if the config has none that is accepted.
        alpha: LoRA alpha; None likewise.
        target_modules: last names of the linears that it has weights for, sorted.
        invocation_ids: an aLoRA's invocation tokens; empty for a plain LoRA.
        tensors: how many it has.
        size_bytes: of all its files.
        digest: of its content; empty if it is not accepted.
        base_model: the model that its config names: a hint, the tensors' sizes decide.
        base_fingerprint: of the base model's shape that it was checked for.
        sidecar: content of ``aloraserve.json``, or its defaults.
        intrinsic: what it asks and what its answers mean; None if its files do not say.
    """

    kind: AdapterKind
    rank: int | None = None
    alpha: float | None = None
    target_modules: tuple[str, ...] = ()
    invocation_ids: tuple[int, ...] = ()
    tensors: int = 0
    size_bytes: int = 0
    digest: str = ""
    base_model: str = ""
    base_fingerprint: str = ""
    sidecar: Sidecar = field(default_factory=Sidecar)
    intrinsic: IntrinsicSpec | None = None


@dataclass(frozen=True, slots=True)
class CheckReport:
    """Result of a check.

    Args:
        facts: what the adapter is.
        problems: why it is not served; at most :data:`MAX_PER_CODE` of a kind. Empty if it is accepted.
        omitted: problems beyond those.
        cause: the operating system's error behind a problem: another time may do better.
        proof: an example as an aLoRA gets it; None for a plain LoRA, and if nobody made one.
    """

    facts: AdapterFacts
    problems: tuple[Problem, ...] = ()
    omitted: int = 0
    cause: OSError | None = None
    proof: ActivationProof | None = None

    @classmethod
    def of(cls, facts: AdapterFacts, problems: Iterable[Problem], cause: OSError | None = None) -> CheckReport:
        """Return a report with the first problems of each kind."""
        counts: Counter[str] = Counter()
        kept: list[Problem] = []
        for problem in dict.fromkeys(problems):
            counts[problem.code] += 1
            if counts[problem.code] <= MAX_PER_CODE:
                kept.append(problem)
        return cls(facts, tuple(kept), counts.total() - len(kept), cause)

    def proven(self, proof: ActivationProof) -> CheckReport:
        """Return the report with a proof of activation; one that fails is a problem like any other."""
        return replace(self, problems=(*self.problems, *proof.problems), proof=proof)

    @property
    def is_accepted(self) -> bool:
        """Whether the adapter may be served."""
        return not self.problems

    @property
    def reason(self) -> str:
        """The first problem of each of the first kinds in one text; empty if there are none."""
        kinds: dict[str, Problem] = {}
        for problem in self.problems:
            kinds.setdefault(problem.code, problem)
        firsts = list(kinds.values())[:REASON_PROBLEMS]
        said = "; also: ".join(problem.text for problem in firsts)
        more = len(self.problems) + self.omitted - len(firsts)
        return f"{said} (and {more} more)" if more > 0 else said

    def version(self, name: str, path: Path) -> AdapterVersion:
        """Return the accepted adapter as a version that is served under ``name``, with its files in ``path``.

        Raises:
            InvalidAdapterError: it is not accepted.
        """
        facts = self.facts
        if self.problems or facts.rank is None or facts.alpha is None:
            raise InvalidAdapterError(self.reason) from self.cause
        return AdapterVersion(
            name=name,
            kind=facts.kind,
            path=path,
            rank=facts.rank,
            target_modules=facts.target_modules,
            invocation_ids=facts.invocation_ids,
            digest=facts.digest,
            untrained=facts.sidecar.untrained,
            intrinsic=facts.intrinsic,
            invocation_text=facts.sidecar.invocation_text or "",
            invocation_mode=facts.sidecar.invocation_mode,
            alpha=facts.alpha,
            size_bytes=facts.size_bytes,
        )
