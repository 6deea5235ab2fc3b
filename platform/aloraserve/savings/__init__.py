"""What reuse across adapters saved: measured against a cache that is keyed by adapter."""
