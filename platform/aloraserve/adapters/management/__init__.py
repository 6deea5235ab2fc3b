"""How adapters are registered, pointed to, retired and deleted, whatever the interface."""

from aloraserve.adapters.management.base import (
    AdapterIntake,
    AdapterReport,
    AdapterUsage,
    Progress,
    RegistrationRequest,
    Usage,
)
from aloraserve.adapters.management.manager import AdapterManager
from aloraserve.adapters.management.registration import Registration, RegistrationStage

__all__ = [
    "AdapterIntake",
    "AdapterManager",
    "AdapterReport",
    "AdapterUsage",
    "Progress",
    "Registration",
    "RegistrationRequest",
    "RegistrationStage",
    "Usage",
]
