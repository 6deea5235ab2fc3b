"""Real clients as they are, each in an environment of its own, against a platform of one real engine."""
