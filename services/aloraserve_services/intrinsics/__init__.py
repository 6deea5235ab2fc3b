"""The intrinsics that the project trains: rows of data built from generated texts, and a spec of each."""
