"""How many engine replicas a fleet needs, which of them leaves, and what the others have before."""
