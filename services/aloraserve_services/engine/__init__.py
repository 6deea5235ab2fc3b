"""One vLLM engine a replica: its model, its adapters and its events."""
