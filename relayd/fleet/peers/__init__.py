"""The client to other policy servers, and how it knows them."""

from relayd.system.lean import stood_in, without

# HTTP/1.1 is all that is spoken here, on Trio: 3 MB of other protocols and loops stay away.
with (
    without("anyio", "h2"),
    stood_in("httpcore2._api", "request", "stream"),
    stood_in(
        "httpcore2._sync",
        "ConnectionInterface",
        "ConnectionPool",
        "HTTP11Connection",
        "HTTP2Connection",
        "HTTPConnection",
        "HTTPProxy",
        "SOCKSProxy",
    ),
):
    import httpcore2  # noqa: F401
