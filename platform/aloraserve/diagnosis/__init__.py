"""Why prompts were not reused as far as they might have been: an account of every call, and sums of a window."""
