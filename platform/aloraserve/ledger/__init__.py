"""Sums that the gateways of a fleet add up together, in buckets of time: savings and tenants' usage."""

from aloraserve.ledger.figures import OTHER, Bucket, Figures
from aloraserve.ledger.redis import RedisSums
from aloraserve.ledger.tally import Tally

__all__ = ["OTHER", "Bucket", "Figures", "RedisSums", "Tally"]
