"""Messages of the gRPC API, generated from the `.proto` files here by `make proto`."""
