"""The HTTP server of a gateway's process: uvicorn's protocol with bounds, TLS, and a port that gateways share."""
