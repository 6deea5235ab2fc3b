"""One engine as an OpenAI server of its own, without a platform: for other projects' routers, and as a baseline."""
