"""One settings object, from a YAML file, ``ALORASERVE_*`` variables and flags, in that order of precedence upward."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml
from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from aloraserve.errors import SettingsError
from aloraserve.routing.cells import MAX_CELL_REPLICAS
from aloraserve.routing.cost_model import TPOT_OBJECTIVE_S
from aloraserve.routing.expected_ttft import ExpectedTtft
from aloraserve.routing.policies import POLICIES, check_policy
from aloraserve.routing.scheduling import AGEING, MAX_AGEING, MIN_AGEING, SchedulingPolicy

if TYPE_CHECKING:
    from aloraserve.adapters.sources import SourcePolicy

LogFormat = Literal["auto", "json", "text"]
MAX_FILE_BYTES = 1 << 20
MAX_TENANTS = 1024
MAX_ADMINS = 64
_KEY = re.compile(r"[!-~]{16,}")
_KEYS = {"admin_keys", "api_keys"}
_SECRET = frozenset({*_KEYS, "redis_url", "cell_redis_urls", "adapter_sources"})
_REMOVED = {
    "overflow_wait_s": "engines begin the shortest waiting call first instead, see scheduling_policy and "
    "priority_ageing; no call is held back in the router any more",
}
"""Settings of earlier releases, and what replaced them."""


def default_state_dir() -> Path:
    """Return where the platform keeps converted models, demo adapters and its run file."""
    root = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(root) / "aloraserve"


class Settings(BaseSettings):
    """Everything that an operator may choose; ``docs/reference/configuration.md`` explains each key."""

    model_config = SettingsConfigDict(env_prefix="ALORASERVE_", extra="forbid", frozen=True)

    model: str = Field("smollm2", description='Model folder, hub id, or "smollm2", which comes with the package.')
    served_name: str | None = Field(None, description="Name of the base model in the API; default: the folder's name.")
    dtype: Literal["auto", "bfloat16", "float32"] = Field(
        "auto",
        description="Weights and KV cache; auto: bfloat16 where the hardware multiplies it, else float32.",
    )
    engine: Literal["vllm", "simulated"] = Field("vllm", description="What generates; simulated: no model, a clock.")
    calibration: str = Field(
        "live-peers", description="What a simulated engine's times and sizes are: a name or a JSON file."
    )
    replicas: int = Field(2, ge=1, le=4096, description="Engine replicas.")
    cells: int = Field(
        1,
        ge=1,
        le=64,
        description=f"Parts of the fleet with a directory each, of up to {MAX_CELL_REPLICAS} replicas.",
    )
    cell_spill_s: float = Field(
        0.5, ge=0, le=3600, description="Expected TTFT in a call's own cell above which a second cell is asked too."
    )
    gateways: int = Field(1, ge=1, le=32, description="Gateway replicas.")
    host: str = Field("127.0.0.1", description="Address that the HTTP API listens on.")
    port: int = Field(8000, ge=1, le=65535, description="Port of the HTTP API.")
    tls_certificate: Path | None = Field(None, description="PEM certificate chain of the HTTP API; none: plain HTTP.")
    tls_key: Path | None = Field(None, description="PEM key of that certificate.")
    tls_client_ca: Path | None = Field(None, description="PEM certificates that clients' own have to be signed by.")
    max_connections: int = Field(4096, ge=1, le=100_000, description="Connections of each gateway; more get 503.")
    head_timeout_s: float = Field(
        10, gt=0, le=600, description="Time for a request's headers, and for a TLS handshake."
    )
    body_timeout_s: float = Field(10, gt=0, le=600, description="Time for a request's body, and more for a long one.")
    keep_alive_s: float = Field(75, gt=0, le=3600, description="Time that an idle connection stays open.")
    stall_timeout_s: float = Field(60, gt=0, le=3600, description="Time that a client may leave an answer unread.")
    drain_timeout_s: float = Field(120, ge=0, le=3600, description="Time for running answers when a gateway stops.")
    api_keys: dict[str, SecretStr] = Field(
        default_factory=dict,
        max_length=MAX_TENANTS,
        description="Tenant -> API key; empty: no authentication.",
    )
    admin_keys: dict[str, SecretStr] = Field(
        default_factory=dict,
        max_length=MAX_ADMINS,
        description="Administrator -> key that reads routing receipts; without it no tenant may.",
    )
    allow_anonymous: bool = Field(False, description="Listen on a public address without API keys.")
    redis_url: str | None = Field(None, description="Redis or Valkey URL; default: an embedded server.")
    cell_redis_urls: tuple[str, ...] = Field(
        (), max_length=64, description="A Redis or Valkey for the directory of each cell; none: all in redis_url."
    )
    namespace: str = Field("default", pattern=r"^[a-z0-9-]{1,40}$", description="Names this fleet in a shared Redis.")
    adapters_dir: Path | None = Field(None, description="Folder of PEFT adapters, one subfolder each; it is followed.")
    adapters_poll_s: float = Field(2, ge=0.05, le=3600, description="Seconds between looks into that folder.")
    adapter_store: Path | None = Field(
        None, description="Folder of what engines load, for all machines to share; default: in the state folder."
    )
    adapter_sources: tuple[str, ...] = Field(
        (),
        max_length=64,
        description="Folders and beginnings of URLs that adapters may be fetched from, beside adapters_dir.",
    )
    reserve_modules: tuple[str, ...] = Field(
        (),
        max_length=32,
        description="Linears that later adapters may change, beside those of the adapters at the start.",
    )
    reserve_rank: Literal[0, 8, 16, 32, 64, 128, 256] = Field(
        0, description="Rank that later adapters may have, if none has it at the start; 0: none."
    )
    reserve_exactly: bool = Field(
        False, description="Room for adapters is what the two reserve settings say, whatever is there at the start."
    )
    state_dir: Path = Field(default_factory=default_state_dir, description="Converted models and the run file.")
    max_model_len: int = Field(8192, ge=64, le=1 << 20, description="Longest prompt plus answer, in tokens.")
    block_tokens: int = Field(32, ge=8, le=256, multiple_of=8, description="Tokens a KV block.")
    kv_cache_gib: float = Field(1.0, gt=0, le=1024, description="KV cache of each replica on the CPU, in GiB.")
    max_num_seqs: int = Field(16, ge=1, le=1024, description="Requests that one engine runs at once.")
    max_queued: int = Field(
        256, ge=1, le=100_000, description="Requests that may wait in each gateway for a replica; more get 429."
    )
    stream_interval: int = Field(
        1, ge=1, le=1024, description="Tokens of an answer that an engine streams together, after the first."
    )
    transport: Literal["channel", "serve"] = Field(
        "channel", description="What carries calls to the engines: a connection to each replica, or Serve's handle."
    )
    channel_host: str = Field(
        "127.0.0.1",
        description="Address that replicas take the calls of gateways on other machines on; loopback: from none.",
    )
    channel_port: int = Field(0, ge=0, le=65535, description="First port tried for that; 0: the system chooses.")
    max_loras: int = Field(8, ge=1, le=64, description="Adapters that may run in one batch.")
    max_loaded_adapters: int = Field(
        64, ge=1, le=1024, description="Adapters that each replica keeps in the host's memory; others load when called."
    )
    adapter_memory_gib: float = Field(
        0, ge=0, le=65536, description="Size of their files together, in GiB; 0: no limit but their number."
    )
    pinned_adapters: tuple[str, ...] = Field(
        (), max_length=256, description="Adapters that every replica loads at its start and keeps."
    )
    preloaded_adapters: tuple[str, ...] = Field(
        (), max_length=256, description="Adapters that every replica loads before they are called, and may unload."
    )
    max_lora_rank: Literal[8, 16, 32, 64, 128, 256] = Field(64, description="Highest adapter rank accepted.")
    scheduling_policy: SchedulingPolicy = Field(
        "priority",
        description="Which waiting call an engine begins: the shortest prefill, ageing, or the first that came (fcfs).",
    )
    priority_ageing: float = Field(
        AGEING,
        ge=MIN_AGEING,
        le=MAX_AGEING,
        description="Seconds of prefill that a second of waiting makes up for; a low rate favours short calls.",
    )
    policy: str = Field(
        ExpectedTtft.name,
        description=f"How replicas are chosen: {', '.join(POLICIES)}, or module:attribute of a policy of your own.",
    )
    tpot_objective_ms: float = Field(
        1000 * TPOT_OBJECTIVE_S,
        ge=0,
        le=60_000,
        description="Time per output token above which calls are charged for slowing answers down; 0: never.",
    )
    receipts: int = Field(1024, ge=1, le=100_000, description="Routing decisions that a gateway can explain.")
    lookup_budget_ms: float = Field(10, gt=0, le=1000, description="Time for the directory before falling back.")
    metrics: bool = Field(True, description="Count and serve metrics in every process.")
    metrics_host: str = Field("127.0.0.1", description="Address that every process serves its metrics on.")
    metrics_port: int = Field(0, ge=0, le=65535, description="First port tried for that; 0: the system chooses.")
    otlp_endpoint: str | None = Field(
        None, pattern=r"^https?://\S+$", description="OTLP collector that spans go to; without it there are none."
    )
    log_format: LogFormat = Field("auto", description="Records as JSON or text; auto: text on a terminal.")
    accelerator_hour_price: float | None = Field(
        None, ge=0, le=1e6, description="What an hour of one engine costs, in any currency; prices the savings."
    )
    start_timeout_s: float = Field(300, gt=0, le=3600, description="Time for the platform to become ready.")

    @property
    def is_public(self) -> bool:
        """Whether the address to listen on can be reached from outside this machine."""
        return not ipaddress.ip_address("127.0.0.1" if self.host == "localhost" else self.host).is_loopback

    @property
    def adapter_policy(self) -> SourcePolicy:
        """What adapters may be fetched from; every folder where whoever calls has an account on this machine."""
        from aloraserve.adapters.sources import SourcePolicy

        is_own = not (self.is_public or self.api_keys or self.admin_keys)
        roots = () if self.adapters_dir is None else (self.adapters_dir,)
        return SourcePolicy.of(self.adapter_sources, roots, any_folder=is_own)

    @field_validator("max_lora_rank", "reserve_rank", mode="before")
    @classmethod
    def _rank_may_be_text(cls, value: object) -> object:
        # A variable's value is text, which a Literal of numbers does not take.
        return int(value) if isinstance(value, str) and value.isdecimal() else value

    @field_validator("host", "metrics_host", "channel_host")
    @classmethod
    def _host_is_an_address(cls, value: str) -> str:
        try:
            ipaddress.ip_address("127.0.0.1" if value == "localhost" else value)
        except ValueError:
            raise ValueError("an IP address or localhost is needed") from None
        return value

    @field_validator("policy")
    @classmethod
    def _policy_is_known(cls, value: str) -> str:
        return check_policy(value)

    @field_validator("adapter_sources")
    @classmethod
    def _sources_are_folders_or_urls(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        # Not at the top: it brings numpy, which commands do not wait for.
        from aloraserve.adapters.sources import SourcePolicy

        SourcePolicy.of(value)
        return value

    @field_validator("api_keys", "admin_keys")
    @classmethod
    def _keys_are_long_and_distinct(cls, value: dict[str, SecretStr]) -> dict[str, SecretStr]:
        secrets = [key.get_secret_value() for key in value.values()]
        if not all(_KEY.fullmatch(secret) for secret in secrets):
            raise ValueError("each key needs at least 16 printable ASCII characters without spaces")
        if len(set(secrets)) != len(secrets):
            raise ValueError("two of them have the same key")
        return value

    @model_validator(mode="after")
    def _tls_is_whole(self) -> Settings:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key go together: set both or none")
        if self.tls_client_ca is not None and self.tls_certificate is None:
            raise ValueError("tls_client_ca needs tls_certificate and tls_key")
        return self

    @model_validator(mode="after")
    def _admins_are_no_tenants(self) -> Settings:
        tenants = {key.get_secret_value() for key in self.api_keys.values()}
        if any(key.get_secret_value() in tenants for key in self.admin_keys.values()):
            raise ValueError("admin_keys has a key of api_keys: an administrator needs one of their own")
        return self

    @model_validator(mode="after")
    def _cells_have_replicas(self) -> Settings:
        if not self.cells <= self.replicas <= self.cells * MAX_CELL_REPLICAS:
            raise ValueError(
                f"replicas is {self.replicas} with cells {self.cells}: 1 to {MAX_CELL_REPLICAS} a cell are accepted"
            )
        if self.cell_redis_urls and len(self.cell_redis_urls) != self.cells:
            raise ValueError(f"cell_redis_urls has {len(self.cell_redis_urls)} with cells {self.cells}: one a cell")
        return self

    @model_validator(mode="after")
    def _context_holds_blocks(self) -> Settings:
        if self.max_model_len < 2 * self.block_tokens:
            raise ValueError(
                f"max_model_len is {self.max_model_len} with block_tokens {self.block_tokens}: "
                "room for at least two blocks is needed"
            )
        return self

    @model_validator(mode="after")
    def _slots_have_adapters(self) -> Settings:
        if self.max_loaded_adapters < self.max_loras:
            raise ValueError(
                f"max_loaded_adapters is {self.max_loaded_adapters} with max_loras {self.max_loras}: at least as many "
                "are needed"
            )
        if len(self.pinned_adapters) > self.max_loaded_adapters - self.max_loras:
            raise ValueError(
                f"pinned_adapters has {len(self.pinned_adapters)} names with max_loaded_adapters "
                f"{self.max_loaded_adapters}: max_loras ({self.max_loras}) places are needed beside them"
            )
        return self

    @model_validator(mode="after")
    def _an_exact_reserve_is_whole(self) -> Settings:
        if self.reserve_exactly and not (self.reserve_modules and self.reserve_rank):
            raise ValueError("reserve_exactly needs reserve_modules and reserve_rank")
        return self

    @model_validator(mode="after")
    def _public_means_authenticated(self) -> Settings:
        if self.is_public and not self.api_keys and not self.allow_anonymous:
            raise ValueError(f"host {self.host} is reachable from outside: set api_keys, or allow_anonymous: true")
        return self

    def to_arguments(self) -> dict[str, Any]:
        """Return the settings as plain values, from which :func:`settings_from_arguments` makes the same again.

        Secrets are in it as they are: never log it.
        """
        plain = self.model_dump(mode="json", exclude=_KEYS, exclude_none=True)
        keys = {name: getattr(self, name) for name in _KEYS}
        return plain | {
            name: {owner: key.get_secret_value() for owner, key in secrets.items()} for name, secrets in keys.items()
        }

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read arguments and the environment only; the file is merged in by :func:`load_settings`."""
        return init_settings, env_settings


def load_settings(file: Path | None = None, **flags: Any) -> Settings:
    """Return the settings: flags over environment over file over defaults.

    Args:
        file: YAML, one mapping of keys of :class:`Settings`.
        flags: values given on the command line; None means not given.

    Raises:
        SettingsError: a key is unknown or its value is not accepted; names the key, where it came from, the value
            and what is accepted. Secrets are never shown.
    """
    return _load(file, {key: value for key, value in flags.items() if value is not None}, "flag")


def settings_from_arguments(
    arguments: Mapping[str, Any], file: Path | None = None, *, defaults: Mapping[str, Any] | None = None
) -> Settings:
    """Return the settings of an application: arguments over environment over file over defaults.

    Args:
        arguments: plain values by key of :class:`Settings`.
        file: as in :func:`load_settings`.
        defaults: in the place of those of :class:`Settings`.

    Raises:
        SettingsError: as in :func:`load_settings`.
    """
    _refuse_unknown_keys(arguments, "args")
    return _load(file, arguments, "args", defaults or {})


def _load(
    file: Path | None, given: Mapping[str, Any], source: str, defaults: Mapping[str, Any] | None = None
) -> Settings:
    from_file = _read(file) if file else {}
    variables = {name.upper() for name in os.environ}
    in_environment = {key for key in Settings.model_fields if f"ALORASERVE_{key.upper()}" in variables}
    _refuse_unknown_variables()
    below = dict(defaults or {}) | from_file
    merged = {key: value for key, value in below.items() if key not in in_environment} | dict(given)
    try:
        return Settings(**merged)
    except ValidationError as error:
        origin = dict.fromkeys(given, source)
        raise SettingsError(_message(error, origin, in_environment, file)) from None
    except ValueError as error:
        # pydantic-settings: a structured variable that is not JSON
        raise SettingsError(f"environment: {error}") from None


def _refuse_unknown_variables() -> None:
    known = {f"ALORASERVE_{key.upper()}" for key in Settings.model_fields} | {"ALORASERVE_CONFIG"}
    unknown = sorted(key for key in os.environ if key.upper().startswith("ALORASERVE_") and key.upper() not in known)
    if unknown:
        _refuse_removed(unknown[0].upper().removeprefix("ALORASERVE_").lower(), "environment", unknown[0])
        raise SettingsError(f"unknown variable {unknown[0]}; known are {', '.join(sorted(known))}")


def _refuse_removed(key: str, source: str, name: str) -> None:
    if key in _REMOVED:
        raise SettingsError(f"{source}: {name} is not a setting any more: {_REMOVED[key]}; take it out")


def _refuse_unknown_keys(keys: Iterable[Any], source: str) -> None:
    unknown = sorted(str(key) for key in keys if key not in Settings.model_fields)
    if unknown:
        _refuse_removed(unknown[0], source, unknown[0])
        known = ", ".join(sorted(Settings.model_fields))
        raise SettingsError(f"{source}: unknown key {unknown[0][:80]!r}; known are {known}")


def _read(file: Path) -> dict[str, Any]:
    try:
        if file.stat().st_size > MAX_FILE_BYTES:
            raise SettingsError(f"{file}: larger than {MAX_FILE_BYTES} bytes")
        content = yaml.safe_load(file.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{file}: cannot be read: {error}") from None
    except yaml.YAMLError as error:
        # PyYAML's own message quotes the text, which may be a key.
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1} column {mark.column + 1}" if mark else ""
        raise SettingsError(f"{file}: not YAML{where}") from None
    except (ValueError, RecursionError) as error:
        raise SettingsError(f"{file}: cannot be read: {type(error).__name__}") from None
    content = {} if content is None else content
    if not isinstance(content, dict):
        raise SettingsError(f"{file}: holds a {type(content).__name__}; a mapping of settings is needed")
    _refuse_unknown_keys(content, str(file))
    return {str(key): value for key, value in content.items()}


def _message(error: ValidationError, origin: dict[str, str], in_environment: set[str], file: Path | None) -> str:
    lines = []
    for problem in error.errors():
        key = str(problem["loc"][0]) if problem["loc"] else ""
        message = problem["msg"].removeprefix("Value error, ")
        if not key:
            lines.append(message)
            continue
        source = origin.get(key) or ("environment" if key in in_environment else str(file) if file else "settings")
        shown = "" if key in _SECRET else f" is {str(problem['input'])[:80]!r}"
        lines.append(f"{source}: {key}{shown}: {message}")
    return "; ".join(lines)
