"""The HTTP API and its hardened server."""

from relayd.system.lean import lean

with lean("quart_trio"):
    import hypercorn.protocol.h11
    import hypercorn.trio.worker_context  # noqa: F401
    import quart_trio  # noqa: F401
