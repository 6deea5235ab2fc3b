"""Benchmarks of the platform, one module each: ``python -m benchmarks.end_to_end --help``. Not part of the wheel."""
