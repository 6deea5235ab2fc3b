"""The platform's own client: the base model answers in parts, an adapter judges the answer; by HTTP or by gRPC.

.venv/bin/python examples/own_client.py [http://127.0.0.1:8000 or grpc://127.0.0.1:9000] [base model] [adapter]
"""

from __future__ import annotations

import os
import sys

from aloraserve.client import CallError, Client

URL = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000"
BASE = sys.argv[2] if len(sys.argv) > 2 else "SmolLM2-135M-Instruct"
ADAPTER = sys.argv[3] if len(sys.argv) > 3 else "uncertainty"
TIMETABLE = "The ferry leaves at 9:00, 12:30 and 17:00 from the old pier, in winter at 9:00 alone. " * 8


def main() -> None:
    """Stream an answer, then call the adapter on the same conversation."""
    conversation = [
        {"role": "system", "content": TIMETABLE},
        {"role": "user", "content": "When does the ferry leave in winter?"},
    ]
    with Client(URL, os.environ.get("ALORASERVE_KEY")) as client:
        answer = "".join(part.text for part in client.stream_chat(BASE, conversation, max_tokens=32))
        print(f"{BASE}: {answer.strip()}")
        conversation.append({"role": "assistant", "content": answer})
        judgement = client.chat(ADAPTER, conversation, max_tokens=8)
        print(f"{ADAPTER}: {judgement.text.strip()}")
        print(f"reused {judgement.cached_tokens} of {judgement.usage['prompt_tokens']} prompt tokens")
        try:
            client.chat("nobody", conversation)
        except CallError as error:
            print(f"{error.status} {error.code}: {error.message}")


if __name__ == "__main__":
    main()
