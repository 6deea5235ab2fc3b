"""From a validated body to token ids: rendered, escaped, tokenized and invoked once, for every edge alike."""
