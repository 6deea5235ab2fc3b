"""The spec of a training, in YAML, checked whole before anything is read or computed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationInfo,
    field_validator,
    model_validator,
)

from aloraserve.adapters.intrinsics import IntrinsicSpec, read_intrinsic
from aloraserve.adapters.invocation import InvocationMode
from aloraserve.adapters.peft_files import check_name
from aloraserve.errors import InvalidAdapterError
from aloraserve.training.spec_digest import spec_digest
from aloraserve.training.spec_file import Place, line_of, read_spec

TWIN_SUFFIX = "-lora"
MAX_FILES = 64
MAX_RANK = 256
"""Highest rank of an adapter that is trained or evaluated."""
MAX_PATH_CHARACTERS = 1024

Kind = Literal["alora", "lora"]
OverLong = Literal["refuse", "skip", "cut-documents"]


def _number(value: object) -> object:
    """Return a number that YAML 1.1 takes for a text: ``2e-4`` has no point, so it is one."""
    if isinstance(value, str) and value.strip()[:1].isdigit():
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _listed(value: object) -> object:
    return (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value


Number = Annotated[float, BeforeValidator(_number)]
Name = Annotated[str, Field(min_length=1, max_length=64)]
FilePath = Annotated[str, Field(min_length=1, max_length=MAX_PATH_CHARACTERS, pattern=r"^[^\x00-\x1f]+$")]
Files = Annotated[tuple[FilePath, ...], BeforeValidator(_listed), Field(min_length=1, max_length=MAX_FILES)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Fractions(_Part):
    """Parts of the conversations that are held back; the rest is trained on."""

    validation: Annotated[Number, Field(gt=0, le=0.5, description="of the conversations, to choose the best step")] = (
        0.1
    )
    test: Annotated[Number, Field(ge=0, le=0.5, description="of the conversations, to evaluate at the end")] = 0.1


class DataSpec(_Part):
    """Files of rows: ``rows`` that are split by conversation, or ``train``, ``validation`` and ``test``."""

    rows: Files | None = Field(None, description="files that are split by conversation")
    fractions: Fractions = Field(Fractions(), description="of `rows`")
    train: Files | None = Field(None, description="files to train on, in place of `rows`")
    validation: Files | None = Field(None, description="files to choose the best step by")
    test: Files | None = Field(None, description="files to evaluate on")
    split_seed: Annotated[int, Field(ge=0, lt=2**31, description="of the division of `rows`")] = 0
    duplicates: Literal["refuse", "allow"] = Field(
        "refuse", description="whether rows that are (nearly) equal may stand on two sides of a split"
    )

    @model_validator(mode="after")
    def _check_one_way(self) -> Self:
        explicit = [name for name in ("train", "validation", "test") if getattr(self, name) is not None]
        if self.rows is not None and (explicit or "fractions" in self.model_fields_set):
            if explicit:
                raise ValueError(f"has 'rows' and {explicit[0]!r}; accepted: rows, or train and validation (and test)")
        elif self.rows is None and "fractions" in self.model_fields_set:
            raise ValueError("has 'fractions' without 'rows'; accepted: rows, or train and validation (and test)")
        if self.rows is None and not {"train", "validation"} <= set(explicit):
            raise ValueError("names no data; accepted: rows, or train and validation (and test)")
        return self

    @property
    def files(self) -> tuple[str, ...]:
        """All files, as the spec names them."""
        return tuple(file for part in (self.rows, self.train, self.validation, self.test) for file in part or ())


class LoraSpec(_Part):
    """The adapter's shape, in PEFT's words."""

    rank: Annotated[int, Field(ge=1, le=MAX_RANK, description="of the update")] = 32
    alpha: Annotated[Number, Field(gt=0, le=1024, description="scale of the update, times 1/rank")] = 32.0
    targets: Annotated[
        tuple[Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")], ...],
        BeforeValidator(_listed),
        Field(min_length=1, max_length=16, description="last names of the linears that are changed"),
    ] = ("q_proj", "k_proj", "v_proj")
    dropout: Annotated[Number, Field(ge=0, lt=1, description="of the adapter's input, while it is trained")] = 0.0


class LoopSpec(_Part):
    """The loop's settings."""

    epochs: Annotated[Number, Field(gt=0, le=1000, description="passes over the training rows")] = 3.0
    learning_rate: Annotated[Number, Field(gt=0, le=1, description="at its highest")] = 2e-4
    batch_size: Annotated[int, Field(ge=1, le=4096, description="examples per step")] = 8
    accumulation: Annotated[
        int, Field(ge=1, le=4096, description="equal parts that a step's examples are computed in")
    ] = 1
    warmup: Annotated[Number, Field(ge=0, lt=1, description="part of the steps in which the rate rises")] = 0.05
    weight_decay: Annotated[Number, Field(ge=0, le=1, description="of AdamW")] = 0.0
    seed: Annotated[int, Field(ge=0, lt=2**31, description="of weights, order and dropout")] = 0
    best_by: Literal["loss", "accuracy"] = Field("loss", description="what the best epoch is chosen by")
    patience: Annotated[int, Field(ge=1, le=1000)] | None = Field(
        None, description="epochs without a better one that end the training; all epochs if it is not said"
    )
    max_tokens: Annotated[int, Field(ge=16, le=2**20)] | None = Field(
        None, description="of an example; the model's context if it is not said"
    )
    over_long: OverLong = Field("refuse", description="what becomes of rows with more tokens")
    dtype: Literal["auto", "float32", "bfloat16"] = Field("auto", description="of the base model's weights")
    saved_dtype: Literal["float32", "bfloat16"] = Field("bfloat16", description="of the adapter's weights, as written")
    gradient_checkpointing: bool = Field(False, description="less memory for more time")
    cache_prefixes: bool = Field(True, description="whether an aLoRA's prefixes are computed once (aLoRA only)")
    cache_bytes: Annotated[int, Field(ge=0, le=2**44, description="of disk that the cached prefixes may take")] = 2**33

    @field_validator("accumulation")
    @classmethod
    def _check_parts(cls, parts: int, info: ValidationInfo) -> int:
        size = info.data.get("batch_size", parts)
        if size % parts:
            raise ValueError(
                f"has accumulation {parts}, which does not divide batch_size {size}; a divisor is accepted"
            )
        return parts


class TrainingSpec(_Part):
    """All that decides an adapter. Paths are relative to the spec's folder. Immutable."""

    name: Name = Field(description="of the adapter, as `model` will call it")
    kind: Kind = Field("alora", description="`alora` acts from its invocation on, `lora` on the whole prompt")
    base: FilePath = Field(description="folder of the base model, or `smollm2`")
    invocation: Annotated[str, Field(min_length=1, max_length=8192)] = Field(
        description="text that invokes the adapter; best begun with a special token"
    )
    mode: Annotated[InvocationMode, Field(strict=False)] | None = Field(
        None, description="where the invocation stands; follows from it if it is not said, as when it is served"
    )
    intrinsic: dict[str, Any] | FilePath | None = Field(
        None, description="as in `aloraserve.json`, or the path of an `io.yaml`"
    )
    data: DataSpec = Field(description="files of rows")
    lora: LoraSpec = Field(LoraSpec(), description="the adapter's shape")
    twin_lora: LoraSpec = Field(LoraSpec(rank=6), description="shape of the LoRA twin (`--kind lora`)")
    training: LoopSpec = Field(LoopSpec(), description="the loop's settings")
    twin_training: LoopSpec | None = Field(None, description="settings of the twin's loop, if they differ")
    licence: Annotated[str, Field(max_length=256)] = Field("", description="of the trained adapter, for its card")
    sources: Annotated[
        tuple[Annotated[str, Field(min_length=1, max_length=1024)], ...], BeforeValidator(_listed), Field(max_length=64)
    ] = Field((), description="of the data, with their licences, for the card")
    description: Annotated[str, Field(max_length=8192)] = Field("", description="for people")

    _path: Path = PrivateAttr(Path())
    _io_yaml: bytes | None = PrivateAttr(None)
    _lines: Mapping[Place, int] = PrivateAttr(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Return the spec that a file holds.

        Args:
            path: of the YAML file; names in messages and paths in the spec go by it.

        Raises:
            TrainingError: it cannot be used; has every problem, with its line.
        """
        found = read_spec(cls, path)
        spec = found.spec
        spec._path, spec._io_yaml, spec._lines = path, found.io_yaml, found.lines
        return spec

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        for served in (name, name + TWIN_SUFFIX):
            try:
                check_name(served)
            except InvalidAdapterError as error:
                raise ValueError(error.message) from None
        return name

    @field_validator("intrinsic")
    @classmethod
    def _check_intrinsic(cls, given: dict[str, Any] | str | None) -> dict[str, Any] | str | None:
        if isinstance(given, dict):
            try:
                read_intrinsic(None, given)
            except InvalidAdapterError as error:
                raise ValueError(error.message.removeprefix("aloraserve.json: intrinsic ")) from None
        return given

    @property
    def path(self) -> Path:
        """The spec's file."""
        return self._path

    @property
    def folder(self) -> Path:
        """The folder that its paths are relative to."""
        return self._path.parent

    @property
    def io_yaml(self) -> bytes | None:
        """Content of the ``io.yaml`` that it names, None if it names none."""
        return self._io_yaml

    @property
    def own_intrinsic(self) -> Mapping[str, Any] | None:
        """The object ``intrinsic`` of ``aloraserve.json``, None if it has none."""
        return self.intrinsic if isinstance(self.intrinsic, dict) else None

    def intrinsic_spec(self) -> IntrinsicSpec | None:
        """Return what the adapter asks and what its answers mean, None if the spec does not say."""
        return read_intrinsic(self._io_yaml, self.own_intrinsic)

    def line(self, *place: str) -> int:
        """Return the line of the spec's file that a key stands in, or what is closest around it."""
        return line_of(place, self._lines)

    def file(self, name: str) -> Path:
        """Return where a file lies that the spec names."""
        return self.folder / Path(name).expanduser()

    def twin(self) -> Self:
        """Return the spec of a plain LoRA from the same data: the paper's comparison (arXiv 2504.12397, section 4)."""
        change = {
            "name": self.name + TWIN_SUFFIX,
            "kind": "lora",
            "lora": self.twin_lora,
            "training": self.twin_training or self.training,
        }
        return self.model_copy(update=change)

    def digest(self) -> str:
        """Return a hex SHA-256 of what decides the result: the spec's settings and the content of its data files.

        The base model's weights are not in it, nor what changes time and memory alone.

        Raises:
            OSError: a data file cannot be read.
        """
        return spec_digest(self.model_dump(mode="json"), self._io_yaml, map(self.file, self.data.files))
