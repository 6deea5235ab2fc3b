"""Block keys, activation point and engine events: pure functions and values."""

from aloraserve.blocks.activation import activation_point
from aloraserve.blocks.events import BlocksCleared, BlocksRemoved, BlocksStored, EngineEvent, EventBatch
from aloraserve.blocks.keys import AdapterEffect, BlockKey, KeySpace

__all__ = [
    "AdapterEffect",
    "BlockKey",
    "BlocksCleared",
    "BlocksRemoved",
    "BlocksStored",
    "EngineEvent",
    "EventBatch",
    "KeySpace",
    "activation_point",
]
