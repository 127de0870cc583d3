"""URLs of other policy servers."""

from relayd.system.addresses import bracketed


def base_url(host: str, port: int) -> str:
    """Return the root URL of a policy server."""
    return f"https://{bracketed(host)}:{port}"
