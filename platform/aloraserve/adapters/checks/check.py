"""The whole check of an adapter: files, config, sidecar, weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from aloraserve.adapters.checks.config import AdapterConfig, check_config
from aloraserve.adapters.checks.header import ITEM_BYTES, TensorEntry, read_header
from aloraserve.adapters.checks.layout import layout_problems
from aloraserve.adapters.checks.report import AdapterFacts, CheckReport
from aloraserve.adapters.checks.sidecar import Sidecar, read_sidecar
from aloraserve.adapters.checks.strict_json import parse_object
from aloraserve.adapters.checks.tensors import Matrix, find_matrices, matrix_problems
from aloraserve.adapters.file_access import failed
from aloraserve.adapters.intrinsics import IO_YAML_FILE, IntrinsicSpec, read_intrinsic
from aloraserve.adapters.peft_files import (
    CONFIG_FILE,
    REQUIRED_FILES,
    SIDECAR_FILE,
    WEIGHTS_FILE,
    AdapterFiles,
    find_files,
)
from aloraserve.adapters.problems import AdapterFileError, Problem, ProblemCode, plain
from aloraserve.adapters.shape import BaseShape
from aloraserve.errors import InvalidAdapterError


def check_adapter(folder: Path, *, base: BaseShape, max_rank: int) -> CheckReport:
    """Return the report on the adapter in ``folder``. Whatever lies there, nothing is raised.

    What is accepted, stock PEFT and vLLM load, and every tensor acts. The memory that it takes does not grow with the
    weights.

    Args:
        folder: with the adapter's files.
        base: shape of the base model.
        max_rank: the highest rank that is accepted.
    """
    check = _Check(base, max_rank)
    try:
        check.run(folder)
    except AdapterFileError as error:
        check.fail(error.problem, error.__cause__)
    except OSError as error:
        check.fail(failed(WEIGHTS_FILE, error).problem, error)
    except Exception as error:  # noqa: BLE001 - files that nobody thought of must not end the registry for all
        check.fail(Problem(ProblemCode.FILE_UNREADABLE, "", f"it cannot be checked: {type(error).__name__}"), None)
    return check.report()


class _Check:
    """One check in progress.

    Args:
        base: shape of the base model.
        max_rank: the highest rank that is accepted.
    """

    def __init__(self, base: BaseShape, max_rank: int) -> None:
        self._base = base
        self._max_rank = max_rank
        self._problems: list[Problem] = []
        self._cause: OSError | None = None
        self._config = AdapterConfig()
        self._sidecar = Sidecar()
        self._intrinsic: IntrinsicSpec | None = None
        self._entries: Sequence[TensorEntry] = ()
        self._matrices: Sequence[Matrix] = ()
        self._size_bytes = 0
        self._digest = ""

    def run(self, folder: Path) -> None:
        found = find_files(folder)
        files = found.files
        missing = set(REQUIRED_FILES) - files.sizes.keys()
        self._size_bytes = files.size_bytes
        self._cause = found.cause
        hints = list(layout_problems(folder, missing))
        self._problems += hints
        self._problems += [
            problem for problem in found.problems if not hints or problem.code != ProblemCode.FILE_MISSING
        ]
        if not missing:
            # Before anything is read: what is copied later has to be this.
            self._digest = files.digest
        self._check_config(files)
        self._check_texts(files)
        self._check_weights(files)

    def fail(self, problem: Problem, cause: BaseException | None) -> None:
        self._problems.append(problem)
        self._cause = cause if isinstance(cause, OSError) else self._cause

    def report(self) -> CheckReport:
        config = self._config
        facts = AdapterFacts(
            kind="alora" if config.invocation_ids else "lora",
            rank=config.rank,
            alpha=config.alpha,
            target_modules=tuple(sorted({matrix.module.rpartition(".")[2] for matrix in self._matrices})),
            invocation_ids=config.invocation_ids,
            tensors=len(self._entries),
            size_bytes=self._size_bytes,
            digest=self._digest,
            base_model=config.base_model,
            base_fingerprint=self._base.fingerprint,
            sidecar=self._sidecar,
            intrinsic=self._intrinsic,
        )
        return CheckReport.of(facts, self._problems, self._cause)

    def _check_config(self, files: AdapterFiles) -> None:
        if CONFIG_FILE not in files.sizes:
            return
        try:
            parsed = parse_object(files.read(CONFIG_FILE))
        except ValueError as error:
            accepted = "a JSON object in UTF-8, without a byte order mark"
            self._problems.append(Problem(ProblemCode.JSON, CONFIG_FILE, str(error), accepted))
            return
        self._config, problems = check_config(parsed, base=self._base, max_rank=self._max_rank)
        self._problems += problems

    def _check_texts(self, files: AdapterFiles) -> None:
        if SIDECAR_FILE in files.sizes:
            try:
                self._sidecar = read_sidecar(files.read(SIDECAR_FILE))
            except ValueError as error:
                accepted = f"an object with {', '.join(Sidecar.__struct_fields__)}"
                self._problems.append(Problem(ProblemCode.SIDECAR, SIDECAR_FILE, str(error), accepted))
        io_yaml = files.read(IO_YAML_FILE) if IO_YAML_FILE in files.sizes else None
        try:
            self._intrinsic = read_intrinsic(io_yaml, self._sidecar.intrinsic)
        except InvalidAdapterError as error:
            self._problems.append(Problem(ProblemCode.INTRINSIC, "", plain(error.message)))

    def _check_weights(self, files: AdapterFiles) -> None:
        if WEIGHTS_FILE not in files.sizes:
            return
        with files.open(WEIGHTS_FILE) as file:
            try:
                self._entries = read_header(file)
            except ValueError as error:
                self._problems.append(Problem(ProblemCode.HEADER, WEIGHTS_FILE, str(error), "a whole safetensors file"))
                return
            self._matrices, problems = find_matrices(self._entries, self._base)
            self._problems += problems
            is_whole = not problems
            self._problems += matrix_problems(self._matrices, self._config, self._base, is_whole=is_whole)
            readable = [matrix for matrix in self._matrices if _has_numbers(matrix.entry)]
            # Brings numpy, which commands that check nothing do not wait for.
            from aloraserve.adapters.checks.tensor_values import value_problems

            self._problems += value_problems(file, readable, self._config.scaling)


def _has_numbers(entry: TensorEntry) -> bool:
    return entry.dtype in ITEM_BYTES and entry.length > 0
