"""The page for administrators through a real Apache, with the shipped configuration."""

from collections.abc import AsyncIterator

import pytest

from relayd.config.main_conf import Listen
from tests.e2e.webserver.test_access import Seen, recorder
from tests.support.curl import NODE, POLICY_SERVER, USER
from tests.support.http import open_server
from tests.support.project import CONF
from tests.support.webserver import Web, open_web

#: Ways to write what is relayd's, but not of the page.
OTHERS = (
    "/relayd/metrics",
    "/relayd/metrics/",
    "/relayd//metrics",
    "/relayd/%6detrics",
    "/relayd/nodes/../metrics",
    "/relayd/rudder/relay-api/1/system/info",
    "/relayd/%72udder/relay-api/1/system/info",
    "/relayd//rudder/relay-api/1/remote-run/status/x",
    "/relayd/./rudder/relay-api/1/shared-folder/x",
    "/relayd/nodes/%2e%2e/rudder/relay-api/1/system/info",
)


@pytest.fixture
async def seen(web: Web) -> AsyncIterator[Seen]:
    """Yield what arrives at relayd through an Apache with the page."""
    page = (CONF / "apache" / "relayd-page.conf").read_text()
    for shipped, here in (
        ("/opt/rudder/etc/htpasswd-relayd-page", str(web.own / "known")),
        ("http://127.0.0.1:3030/", f"http://127.0.0.1:{web.api}/"),
    ):
        assert shipped in page
        page = page.replace(shipped, here)
    file = web.own / "apache.conf"
    start, host, _ = file.read_text().partition(
        f'Include "{CONF / "apache" / "rudder-relayd.conf"}"'
    )
    assert host
    shipped_host = (CONF / "apache" / "rudder-relayd.conf").read_text()
    file.write_text(start + shipped_host.replace("</VirtualHost>", f"{page}</VirtualHost>"))
    found = Seen()
    assert isinstance(web.api, int)
    listen = Listen(host="127.0.0.1", port=web.api)
    async with open_server(recorder(found), listen=listen, grace=0.1), open_web(web):
        yield found


@pytest.mark.parametrize("kind", ["apache"], indirect=True)
async def test_only_the_page_is_there_and_only_for_administrators(web: Web, seen: Seen) -> None:
    """It asks for a password and an address, passes reads on, and nothing but the page."""
    known = f"{USER}:{web.password}"
    assert (await web.curl("/relayd/", source=POLICY_SERVER)).status == 401
    assert (await web.curl("/relayd/", source=POLICY_SERVER, user=f"{USER}:no")).status == 401
    assert (await web.curl("/relayd/", source=NODE, user=known)).status in {401, 403}
    for option in ("-XPOST", "-XPUT", "-XDELETE"):
        reply = await web.curl("/relayd/", option, source=POLICY_SERVER, user=known)
        assert reply.status == 403, option
    for path in OTHERS:
        reply = await web.curl(path, source=POLICY_SERVER, user=known)
        assert reply.status in {403, 404}, path
    assert seen.requests == []
    for path in ("", "nodes?q=web&failing=yes", "failed/bad_name", "files/a%25b%22.log", "events"):
        reply = await web.curl(f"/relayd/{path}", source=POLICY_SERVER, user=known)
        assert (reply.status, reply.body) == (200, "passed on"), path
    assert [path for _, path in seen.requests][:3] == [
        "/",
        "/nodes?q=web&failing=yes",
        "/failed/bad_name",
    ]
