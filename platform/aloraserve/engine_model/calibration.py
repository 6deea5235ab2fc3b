"""Times of a modelled engine: read from a JSON file, measured or published."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from aloraserve.errors import SettingsError
from aloraserve.routing.prefill_model import PrefillModel

_FOLDER = "calibrations"
_Seconds = Field(ge=0.0, le=60.0, allow_inf_nan=False)


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class PrefillTimes(_Part):
    """Of a step that prefills; see :class:`~aloraserve.routing.prefill_model.PrefillModel`.

    Args:
        fixed_s: of each step, however many tokens it has.
        s_per_token: linear part.
        s_per_square_token: quadratic part: attention to the tokens before.
        adapter_s_per_token: added for each token of an adapter's call.
    """

    fixed_s: float = _Seconds
    s_per_token: float = Field(gt=0.0, le=10.0, allow_inf_nan=False)
    s_per_square_token: float = _Seconds
    adapter_s_per_token: float = Field(default=0.0, ge=0.0, le=10.0, allow_inf_nan=False)

    @property
    def model(self) -> PrefillModel:
        """The same as a cost model."""
        return PrefillModel(self.fixed_s, self.s_per_token, self.s_per_square_token)


class DecodeTimes(_Part):
    """Of a step that adds one token to each running answer.

    Args:
        fixed_s: of each step: mostly reading the weights.
        s_per_sequence: for each running answer.
        s_per_context_token: for each token of their contexts: reading their KV.
    """

    fixed_s: float = Field(gt=0.0, le=60.0, allow_inf_nan=False)
    s_per_sequence: float = _Seconds
    s_per_context_token: float = _Seconds


class AdapterTimes(_Part):
    """How an engine keeps adapters.

    Args:
        load_s: to load one that is not resident.
        copy_s: to copy one that is into a slot.
        slots: distinct adapters among the requests that run (vLLM's ``max_loras``).
        resident: how many stay loaded; at least ``slots``.
    """

    load_s: float = _Seconds
    slots: int = Field(ge=1, le=10_000)
    resident: int = Field(ge=1, le=100_000)
    copy_s: float = Field(default=0.0, ge=0.0, le=60.0, allow_inf_nan=False)


class Calibration(_Part):
    """One engine on one machine.

    Args:
        name: short.
        machine: what it was measured on.
        model: the model served.
        dtype: of its weights.
        date: of the measurement, or of this compilation.
        sources: where the figures come from: the command, or each publication.
        prefill: see :class:`PrefillTimes`.
        decode: see :class:`DecodeTimes`.
        adapters: see :class:`AdapterTimes`.
        overhead_s: on the way to the first token that keeps no engine busy: HTTP, tokenizing, the first chunk's way.
        kv_tokens: tokens that the KV cache has room for.
        block_tokens: tokens per block of the measured engine.
        max_num_batched_tokens: tokens per step.
        max_num_seqs: requests that run at once.
        prefill_apart: whether prompts are computed one after the other, with answers beside them in steps of their own;
            vLLM's steps compute both together.
        fit: how well the figures fit what was measured, where they were measured.
    """

    name: str = Field(min_length=1, max_length=100)
    machine: str = Field(min_length=1, max_length=200)
    model: str = Field(min_length=1, max_length=200)
    dtype: str = Field(min_length=1, max_length=20)
    date: str = Field(pattern=r"^\d{4}-\d{2}-\d{2}$")
    sources: list[str] = Field(min_length=1, max_length=50)
    prefill: PrefillTimes
    decode: DecodeTimes
    adapters: AdapterTimes
    overhead_s: float = Field(default=0.0, ge=0.0, le=10.0, allow_inf_nan=False)
    kv_tokens: int = Field(ge=16, le=1_000_000_000)
    block_tokens: int = Field(ge=1, le=4096)
    max_num_batched_tokens: int = Field(ge=1, le=1_000_000)
    max_num_seqs: int = Field(ge=1, le=100_000)
    prefill_apart: bool = False
    fit: dict[str, float] = Field(default_factory=dict, max_length=50)


def names() -> list[str]:
    """Return the names of the calibrations that come with the package."""
    folder = files("aloraserve.engine_model").joinpath(_FOLDER)
    return sorted(file.name.removesuffix(".json") for file in folder.iterdir() if file.name.endswith(".json"))


def load(name_or_path: str) -> Calibration:
    """Read a calibration, one that comes with the package by its name or any by its path.

    Raises:
        SettingsError: there is none, or it is not valid; names the field and what is accepted.
    """
    if name_or_path in names():
        text = files("aloraserve.engine_model").joinpath(_FOLDER, f"{name_or_path}.json").read_text("utf-8")
    else:
        path = Path(name_or_path)
        if not path.is_file():
            raise SettingsError(
                f"calibration is {name_or_path!r}; a JSON file or one of {', '.join(names())} is accepted"
            )
        try:
            text = path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"calibration {name_or_path} cannot be read: {error}") from None
    return parse(text, name_or_path)


def parse(text: str, origin: str) -> Calibration:
    """Return the calibration in a JSON text.

    Args:
        text: the JSON.
        origin: names it in errors.

    Raises:
        SettingsError: it is not valid.
    """
    try:
        calibration = Calibration.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise SettingsError(f"calibration {origin}: {where}: {first['msg']}; got {first['input']!r:.100}") from None
    if calibration.adapters.resident < calibration.adapters.slots:
        raise SettingsError(
            f"calibration {origin}: adapters.resident is {calibration.adapters.resident}; at least adapters.slots "
            f"({calibration.adapters.slots}) is needed"
        )
    return calibration
