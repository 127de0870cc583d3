"""Host names and IP addresses as they are written in URLs."""


def bracketed(host: str) -> str:
    """Return a host as it appears in a URL: IPv6 addresses in brackets, others unchanged.

    Args:
        host: a host name or an IP address; an IPv6 address may already be in brackets.
    """
    bare = host.strip("[]")
    return f"[{bare}]" if ":" in bare else bare
