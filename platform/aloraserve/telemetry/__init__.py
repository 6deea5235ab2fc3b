"""Metrics, traces and logs: they wrap the other rooms' contracts from outside."""
