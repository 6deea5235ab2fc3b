"""What is true of the platform: keys, directory, routing, adapters, wire models. Knows no runtime."""
