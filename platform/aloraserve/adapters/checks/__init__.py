"""Validation of adapters before any engine meets them: what is accepted, PEFT and vLLM load, and every tensor acts."""

from aloraserve.adapters.checks.activation import ActivationProof
from aloraserve.adapters.checks.check import check_adapter
from aloraserve.adapters.checks.report import AdapterFacts, CheckReport
from aloraserve.adapters.checks.sidecar import Sidecar

__all__ = ["ActivationProof", "AdapterFacts", "CheckReport", "Sidecar", "check_adapter"]
