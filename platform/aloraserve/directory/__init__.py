"""Which live replica holds which blocks: the contract and its backends."""
