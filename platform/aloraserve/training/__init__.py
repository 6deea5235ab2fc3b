"""Training and evaluation of intrinsics, as far as it needs no model: rows, specs, metrics, results."""
