"""The HTTP API and its hardened server."""
