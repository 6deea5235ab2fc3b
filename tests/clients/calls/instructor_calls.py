"""instructor: typed answers by a JSON schema and by tools, whole and as they come.

python instructor_calls.py URL MODEL
"""

from __future__ import annotations

import sys

import instructor
import openai
from pydantic import BaseModel

URL, MODEL = sys.argv[1:3]
MESSAGES = [{"role": "user", "content": "Is the 8 o'clock ferry late, and from which pier does it leave?"}]


class Ferry(BaseModel):
    is_late: bool
    pier: int


plain = openai.OpenAI(base_url=f"{URL}/v1", api_key="none", max_retries=0)
for mode in (instructor.Mode.JSON_SCHEMA, instructor.Mode.TOOLS):
    client = instructor.from_openai(plain, mode=mode)
    ferry = client.chat.completions.create(model=MODEL, messages=MESSAGES, response_model=Ferry, max_retries=0)
    assert isinstance(ferry, Ferry)
    print(f"mode {mode.name}")
