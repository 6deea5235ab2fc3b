"""Limits of tenants: how many requests and tokens per minute, and how many requests at once, over all gateways."""

from aloraserve.limits.base import Demand, LimitStore, Settlement, Standing, Want

__all__ = ["Demand", "LimitStore", "Settlement", "Standing", "Want"]
