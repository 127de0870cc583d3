"""The HTTP API and its hardened server."""

from relayd.system.lean import lean

with lean("quart_trio"):
    import quart_trio  # noqa: F401
