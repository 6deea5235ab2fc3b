"""Savings by reuse across adapters: the ghost of an adapter-keyed cache, counterfactual TTFT, and totals of both."""

from aloraserve.savings.base import CachedBySource, CallSavings, SavingsEntry, SavingsFigures, SavingsLedger

__all__ = ["CachedBySource", "CallSavings", "SavingsEntry", "SavingsFigures", "SavingsLedger"]
