"""Training of adapters: examples in tokens, and all that needs the extra ``train``."""
