"""URLs of policy servers and of the API of relayd."""

from typing import Final

from relayd.system.addresses import bracketed

#: The API as web servers publish it; a web server in front of relayd adds the version.
PUBLIC_API: Final = "/rudder/relay-api"
#: The API as relayd itself serves it.
API: Final = f"{PUBLIC_API}/1"


def base_url(host: str, port: int) -> str:
    """Return the root URL of a policy server."""
    return f"https://{bracketed(host)}:{port}"
