"""One settings object, from a YAML file, ``ALORASERVE_*`` variables and flags; a file per group."""

from aloraserve.settings.callers import MAX_ADMINS, MAX_TENANTS
from aloraserve.settings.fleet import default_state_dir
from aloraserve.settings.loading import load_settings, settings_from_arguments
from aloraserve.settings.settings import SECRETS, Settings
from aloraserve.settings.telemetry import LogFormat
from aloraserve.settings.variables import is_set
from aloraserve.settings.yaml_file import MAX_FILE_BYTES

__all__ = [
    "MAX_ADMINS",
    "MAX_FILE_BYTES",
    "MAX_TENANTS",
    "SECRETS",
    "LogFormat",
    "Settings",
    "default_state_dir",
    "is_set",
    "load_settings",
    "settings_from_arguments",
]
