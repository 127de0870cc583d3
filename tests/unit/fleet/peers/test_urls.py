"""URLs of other policy servers."""

import pytest

from relayd.fleet.peers.urls import base_url


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("root.example.org", "https://root.example.org:443"),
        ("192.0.2.1", "https://192.0.2.1:443"),
        ("2001:db8::1", "https://[2001:db8::1]:443"),
        ("[2001:db8::1]", "https://[2001:db8::1]:443"),
    ],
)
def test_base_url(host: str, url: str) -> None:
    """A name and addresses of both families make a URL."""
    assert base_url(host, 443) == url
