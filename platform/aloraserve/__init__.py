"""Domain of the platform: keys, directory, routing, adapters, wire models. Knows no runtime."""

__version__ = "0.1.0"
