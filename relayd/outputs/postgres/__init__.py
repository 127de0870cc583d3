"""The database of a root server."""
