"""Calls of functions in answers: how a model's text has them, and how they are read out of it as it comes."""

from aloraserve.serving.tools.base import CallDelta, Heard, ToolReader
from aloraserve.serving.tools.formats import FORMATS, ToolFormat, format_of
from aloraserve.serving.tools.tool_use import ToolUse

__all__ = ["FORMATS", "CallDelta", "Heard", "ToolFormat", "ToolReader", "ToolUse", "format_of"]
