"""The client to other policy servers: connections, TLS and pins."""

from relayd.system.lean import lean

with lean("httpcore2"):
    import httpcore2  # noqa: F401
