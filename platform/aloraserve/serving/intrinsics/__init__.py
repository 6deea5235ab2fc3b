"""Several intrinsics over one conversation: its prefix is prefilled once, each of them answers for itself."""
