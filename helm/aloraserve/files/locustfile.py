"""The load of the chart's Job: conversations that share their beginning, over models in turn."""

import itertools
import os

import urllib3
from locust import HttpUser, between, task

urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)

MODELS = os.environ.get("ALORASERVE_LOAD_MODELS", "").split()
PROMPT_WORDS = int(os.environ.get("ALORASERVE_LOAD_PROMPT_WORDS", "400"))
MAX_TOKENS = int(os.environ.get("ALORASERVE_LOAD_MAX_TOKENS", "32"))
CERTIFICATE = os.environ.get("ALORASERVE_LOAD_CERTIFICATE")
_NUMBERS = itertools.count()


class Conversation(HttpUser):
    """A user who asks about one long text, again and again."""

    wait_time = between(0.5, 2)

    def on_start(self):
        """Begin a conversation that no other user has."""
        # The certificate is for the name that clients use, not for the Service's.
        self.client.verify = False
        if CERTIFICATE:
            self.client.cert = (f"{CERTIFICATE}/tls.crt", f"{CERTIFICATE}/tls.key")
        self.client.headers["Authorization"] = f"Bearer {os.environ['ALORASERVE_LOAD_KEY']}"
        self.models = itertools.cycle(MODELS or [self.base_model()])
        number = next(_NUMBERS)
        self.text = " ".join(f"word{number}-{index}" for index in range(PROMPT_WORDS))

    def base_model(self):
        """Return the first model that is listed."""
        return self.client.get("/v1/models").json()["data"][0]["id"]

    @task
    def ask(self):
        """Ask the next model about the text."""
        model = next(self.models)
        body = {"model": model, "messages": [{"role": "user", "content": self.text}], "max_tokens": MAX_TOKENS}
        self.client.post("/v1/chat/completions", json=body, name=f"chat {model}")
