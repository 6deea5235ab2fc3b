"""How adapters are registered, pointed to, retired and deleted, whatever the interface."""

from aloraserve.adapters.management.base import (
    AdapterIntake,
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
    "AdapterUsage",
    "Progress",
    "Registration",
    "RegistrationRequest",
    "RegistrationStage",
    "Usage",
]
