"""The `aloraserve` command."""
