"""``GET /version``: which vLLM's API this is, by which clients choose how to ask.

mellea 0.8 takes a server that answers 0.12.0 or later for one that knows ``structured_outputs``; without an answer it
sends ``guided_json`` (``helpers/server_type.py``). vLLM's own answer has ``version`` alone.
"""

from __future__ import annotations

import aloraserve
from aloraserve.wire.responses import ResponsePart

VLLM_API = "0.32.0"
"""The release of vLLM whose requests and answers these are, whatever engine runs."""


class ServerVersion(ResponsePart):
    """See the module's docstring."""

    version: str = VLLM_API
    aloraserve: str = aloraserve.__version__
