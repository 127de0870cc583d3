"""The HTTP API and its hardened server."""

from relayd.lean import stood_in, without

# HTTP/1.1 is all that is spoken here, on Trio: 3 MB of other protocols and loops stay away.
with without("anyio", "h2"):
    import httpcore2  # noqa: F401

with (
    stood_in("h2", "events"),
    stood_in("h2.events"),
    stood_in("hypercorn.protocol.h2", "H2Protocol"),
):
    import hypercorn.protocol  # noqa: F401
