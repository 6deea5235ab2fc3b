"""Model files, dtypes and untrained adapters."""
