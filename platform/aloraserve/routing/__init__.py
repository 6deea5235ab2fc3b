"""Where a call should go: the contract, its policies and the router that asks the directory."""
