"""Load tests: the same conversations as LoRA, as aLoRA and as base calls, through HTTP, with locust."""
