"""A gRPC server without an application: its port, its certificates, its bounds, and errors as statuses."""
