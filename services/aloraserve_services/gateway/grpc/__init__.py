"""The gRPC edge of a gateway: ``aloraserve.v1``, over the same calls as HTTP's routes."""
