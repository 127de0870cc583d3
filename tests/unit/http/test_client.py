"""The client of other policy servers, against a real TLS server on a real socket."""

import trio

from relayd.http.client import USER_AGENT, Clients
from relayd.secret import Secret
from tests.support.signing import make_key_and_cert
from tests.support.tls_server import open_peer

NODE = make_key_and_cert("upstream")


async def test_a_request_reaches_a_pinned_peer_and_its_connection_is_used_again() -> None:
    """Two uploads arrive byte for byte over one connection, with credentials and user agent."""
    async with open_peer(NODE) as peer:
        clients = Clients()
        clients.update({"upstream": (NODE.cert_der,)})
        for body in (b"one", b"two"):
            with trio.fail_after(10):
                async with clients.request(
                    "upstream",
                    "PUT",
                    f"{peer.url}/reports/a%3Fb",
                    content=body,
                    auth=("rudder", Secret("p")),
                ) as answer:
                    assert answer.status == 201
                    assert [chunk async for chunk in answer.chunks()] == []
        assert peer.uploads == [("/reports/a%3Fb", b"one"), ("/reports/a%3Fb", b"two")]
        assert peer.connections == 1
        assert peer.requests[0].headers["user-agent"] == USER_AGENT
        assert peer.requests[0].headers["authorization"] == "Basic cnVkZGVyOnA="
        await clients.aclose()
