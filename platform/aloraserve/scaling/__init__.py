"""How many engine replicas a fleet needs, and which of them leaves."""
