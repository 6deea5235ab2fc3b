"""What Serve's controller runs to decide how many replicas there are."""
