"""What tenants use: requests and tokens by day."""

from aloraserve.usage.base import UsageFigures
from aloraserve.usage.redis import UsageLedger

__all__ = ["UsageFigures", "UsageLedger"]
