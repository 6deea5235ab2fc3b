"""The connection between a gateway and an engine replica: what is said, who may say it, and both of its ends."""
