"""How anything here talks to a Redis or Valkey server."""
