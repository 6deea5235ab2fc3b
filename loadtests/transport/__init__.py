"""How a load test talks to the platform."""

from loadtests.transport.base import Answer, CallError, Transport

__all__ = ["Answer", "CallError", "Transport"]
