"""Host names and IP addresses as they are written in URLs."""


def bare(host: str) -> str:
    """Return a host without the brackets of an IPv6 address."""
    return host.strip("[]")


def bracketed(host: str) -> str:
    """Return a host as it appears in a URL: IPv6 addresses in brackets, others unchanged.

    Args:
        host: a host name or an IP address; an IPv6 address may already be in brackets.
    """
    name = bare(host)
    return f"[{name}]" if ":" in name else name
