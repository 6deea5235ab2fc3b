"""Types of numbers in GGUF files; apart from what writes them, so that the command line starts fast."""

from typing import Literal

StoredType = Literal["f32", "f16", "bf16"]
