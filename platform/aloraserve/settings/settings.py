"""The one settings object: all groups, and what holds between them."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, get_args

from pydantic import SecretStr, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from aloraserve.scaling.base import ScalingRules
from aloraserve.settings.adapters import AdapterSettings
from aloraserve.settings.address import is_public
from aloraserve.settings.callers import CallerSettings
from aloraserve.settings.engine import EngineSettings
from aloraserve.settings.grpc import GrpcSettings
from aloraserve.settings.http import HttpSettings
from aloraserve.settings.limits import LimitSettings
from aloraserve.settings.paths import expanded
from aloraserve.settings.redis import RedisSettings
from aloraserve.settings.routing import RoutingSettings
from aloraserve.settings.scaling import ScalingSettings
from aloraserve.settings.telemetry import TelemetrySettings
from aloraserve.settings.timeouts import TimeoutSettings
from aloraserve.settings.tools import ToolSettings
from aloraserve.settings.variables import VariableSource
from aloraserve.tenants.sealing import sealed

if TYPE_CHECKING:
    from aloraserve.adapters.sources import SourcePolicy

KEYS = frozenset({"admin_keys", "api_keys"})
"""Settings that hold callers' keys."""
SECRETS = KEYS | {"redis_url", "cell_redis_urls"}
"""Settings that may hold secrets of any kind."""
_NAMES_OR_PATHS = ("model", "calibration", "adapter_sources")
"""Settings that are paths or else something that never begins with ``~``."""


class Settings(
    ScalingSettings,
    HttpSettings,
    GrpcSettings,
    TimeoutSettings,
    CallerSettings,
    LimitSettings,
    RedisSettings,
    AdapterSettings,
    EngineSettings,
    RoutingSettings,
    TelemetrySettings,
    ToolSettings,
    BaseSettings,
):
    """Everything that an operator may choose; ``docs/reference/configuration.md`` explains each key."""

    model_config = SettingsConfigDict(env_prefix="ALORASERVE_", extra="forbid", frozen=True)

    @field_validator("*", mode="before")
    @classmethod
    def _words_mean_what_they_say(cls, value: object, info: ValidationInfo) -> object:
        annotation = cls.model_fields[info.field_name or ""].annotation
        kinds = {annotation, *get_args(annotation)}
        if isinstance(value, bool) and kinds & {int, float}:
            # To Python true is 1.
            raise ValueError("a number is needed")
        if isinstance(value, str | Path) and Path in kinds:
            return expanded(value)
        if info.field_name in _NAMES_OR_PATHS:
            return _expanded_path(value) if isinstance(value, str) else _expanded_paths(value)
        return value

    @property
    def is_public(self) -> bool:
        """Whether the address to listen on can be reached from outside this machine."""
        return is_public(self.host)

    def scaling_rules(self, max_requests: int) -> ScalingRules:
        """Return the rules of the fleet's scaler.

        Args:
            max_requests: that one engine runs at once.
        """
        names = {rule.name for rule in fields(ScalingRules)} & set(type(self).model_fields)
        given = {name: getattr(self, name) for name in names}
        return ScalingRules(**given, itl_objective_s=self.tpot_objective_ms / 1000, max_requests=max_requests)

    @property
    def adapter_snapshots(self) -> Path:
        """Folder of what engines load: the store of adapters."""
        return self.adapter_store or self.state_dir / "adapter-snapshots"

    @property
    def adapter_policy(self) -> SourcePolicy:
        """What adapters may be fetched from; every folder where whoever calls has an account on this machine."""
        from aloraserve.adapters.sources import SourcePolicy

        is_own = not (self.is_public or self.api_keys or self.admin_keys)
        roots = () if self.adapters_dir is None else (self.adapters_dir,)
        return SourcePolicy.of(self.adapter_sources, roots, any_folder=is_own)

    @property
    def tenant_adapter_policy(self) -> SourcePolicy:
        """What tenants may have adapters fetched from: what the settings list, and no folder of the machine's."""
        from aloraserve.adapters.sources import SourcePolicy

        return SourcePolicy.of(self.adapter_sources)

    @model_validator(mode="after")
    def _cells_have_servers(self) -> Self:
        if self.cell_redis_urls and len(self.cell_redis_urls) != self.cells:
            raise ValueError(f"cell_redis_urls has {len(self.cell_redis_urls)} with cells {self.cells}: one a cell")
        return self

    @model_validator(mode="after")
    def _ports_differ(self) -> Self:
        if self.grpc_port == self.port:
            raise ValueError(f"grpc_port and port are both {self.port}: each API needs a port of its own")
        return self

    @model_validator(mode="after")
    def _any_page_needs_a_key(self) -> Self:
        if "*" in self.cors_origins and not (self.api_keys or self.is_public):
            raise ValueError(
                "cors_origins is *: every web page could use a platform without api_keys; name the origins"
            )
        return self

    def to_arguments(self) -> dict[str, Any]:
        """Return the settings as plain values, from which :func:`settings_from_arguments` makes the same again.

        Secrets are in it as they are: never log it.
        """
        plain = self.model_dump(mode="json", exclude_none=True)
        return plain | {name: _shown(getattr(self, name)) for name in SECRETS if name in plain}

    def for_gateways(self) -> Self:
        """Return the settings as they travel to gateways: of the callers' keys only digests."""
        return self.model_copy(update={name: sealed(getattr(self, name)) for name in KEYS})

    def for_engines(self) -> Self:
        """Return the settings as they travel to engines, which callers' keys are none of the business of."""
        return self.model_copy(update={name: {} for name in KEYS} | {"key_pepper_file": None})

    @property
    def pepper_path(self) -> Path:
        """The file of the pepper that made keys are digested under."""
        return self.key_pepper_file or self.state_dir / "key-pepper"

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
        return init_settings, VariableSource(settings_cls)


def _expanded_path(value: str) -> str:
    return str(expanded(value)) if value.startswith("~") else value


def _expanded_paths(values: object) -> object:
    if not isinstance(values, list | tuple):
        return values
    return tuple(_expanded_path(value) if isinstance(value, str) else value for value in values)


def _shown(secret: object) -> object:
    """Return the plain value of what has secrets."""
    match secret:
        case SecretStr():
            return secret.get_secret_value()
        case dict():
            return {name: _shown(each) for name, each in secret.items()}
        case tuple():
            return [_shown(each) for each in secret]
    return secret
