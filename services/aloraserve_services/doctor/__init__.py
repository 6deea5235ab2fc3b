"""Checks of a deployment, each with what to do about what it finds. Nothing here changes anything."""
