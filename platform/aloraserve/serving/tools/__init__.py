"""Calls of functions in answers: how a model's text has them, and how they are read out of it as it comes."""

from aloraserve.serving.tools.base import CallDelta, Heard, ToolReader
from aloraserve.serving.tools.formats import AUTO, FORMATS, ToolFormat, known_format
from aloraserve.serving.tools.tool_use import ToolUse

__all__ = ["AUTO", "FORMATS", "CallDelta", "Heard", "ToolFormat", "ToolReader", "ToolUse", "known_format"]
