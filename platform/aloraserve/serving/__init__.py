"""The request path without a transport: from a request to the engine's replies."""
