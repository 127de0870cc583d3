"""Each fault between a relay and its upstream is reported in one line."""

import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from functools import partial
from pathlib import Path
from typing import Final

import pytest
import trio

from relayd.commands.demo.postgres.server import ConnectionInfo, Server
from tests.support import webserver
from tests.support.checked import check_beside, open_site
from tests.support.daemon import Site
from tests.support.front import DEFAULT_PASSWORD, PASSWORD, make_front, open_front
from tests.support.misconfigured import about_site, fill, verify
from tests.support.ports import free_port
from tests.support.project import CONF
from tests.support.signing import SigningNode, make_key_and_cert
from tests.support.tls_server import (
    Answer,
    Behaviour,
    Cut,
    Exchange,
    Peer,
    Silent,
    open_peer,
)

NOBODY: Final = ConnectionInfo("127.0.0.1", 1, "rudder", "secret", "rudder")
COPY: Final = "copy the upstream's certificate into output.upstream.server_certificate_file"
UPSTREAM: Final = make_key_and_cert("upstream")


@pytest.fixture
def site() -> Iterator[Site]:
    """A relay whose upstream does not listen yet."""
    with open_site(NOBODY) as site:
        site.extra["general"] = 'node_id = "relay1"'
        site.extra["processing.reporting"] = 'output = "upstream"'
        site.extra["processing.inventory"] += '\noutput = "upstream"'
        site.nodes_list.write_text(site.nodes_list.read_text().replace('"root"}', '"relay1"}'))
        below(site, free_port())
        yield site


def below(
    site: Site,
    port: int,
    *,
    node: SigningNode = UPSTREAM,
    password: str = PASSWORD,
    default_password: str = DEFAULT_PASSWORD,
    host: str = "127.0.0.1",
    general: str = "",
) -> None:
    """Configures the upstream of the site."""
    pin = site.root / "upstream.pem"
    pin.write_bytes(node.cert_pem)
    site.extra["general"] = f'node_id = "relay1"\nhttps_port = {port}\n{general}'
    site.extra["output.upstream"] = f"""
        host = "{host}"
        password = "{password}"
        default_password = "{default_password}"
        server_certificate_file = "{pin}"
    """
    site.write_conf()


class OnTime(Answer):
    """Answers with the time of the answer, however long the request took to come."""

    async def serve(self, peer: Peer, exchange: Exchange) -> None:
        """Answer."""
        now = format_datetime(datetime.now(UTC), usegmt=True)
        await Answer(self.status, [*self.headers, ("Date", now)], self.body).serve(peer, exchange)


@asynccontextmanager
async def upstream(site: Site, behaviour: Behaviour) -> AsyncIterator[Peer]:
    """An upstream of the site with a given behaviour."""
    async with open_peer(UPSTREAM) as peer:
        peer.behaviour = behaviour
        below(site, peer.port)
        yield peer


@pytest.fixture
async def front(site: Site, tmp_path: Path) -> AsyncIterator[Path]:
    """A web server above the site that checks passwords; the directory of its spool."""
    front = make_front(tmp_path, node=UPSTREAM)
    async with open_front(front):
        below(site, front.listen.port)
        yield tmp_path


def spooled(root: Path) -> list[Path]:
    """The files in the spool of the upstream."""
    return [path for name in ("reports", "inventories") for path in (root / name).rglob("*.*")]


async def test_a_sound_relay_has_no_findings(site: Site, front: Path) -> None:
    """With the right pin and both passwords there is no finding, and nothing was uploaded."""
    assert await findings(site, lonely=True) == []
    assert spooled(front) == []


@pytest.mark.parametrize(
    ("wrong", "path", "key"),
    [
        ({"password": "wrong"}, "reports", "output.upstream.password"),
        ({"default_password": "wrong"}, "inventories", "output.upstream.default_password"),
    ],
)
async def test_each_wrong_password_has_a_finding_of_its_own(
    site: Site, front: Path, wrong: dict[str, str], path: str, key: str
) -> None:
    """The finding says which of the two passwords is wrong, without showing it."""
    port = int(site.extra["general"].split("https_port = ")[1].split("\n")[0])
    below(site, port, **wrong)  # type: ignore[arg-type]
    verify(
        await check_beside(site),
        (
            (
                f"error: https://127.0.0.1:{port}/{path}/: the password of user rudder is wrong."
                f" Fix: set {key} to the password in the upstream's htpasswd file"
            ),
        ),
        site,
        lonely=True,
    )
    assert spooled(front) == []


async def findings(site: Site, *, lonely: bool = False) -> list[str]:
    """The findings about the site; `lonely` where no other clock is known."""
    done = await check_beside(site)
    assert done.stderr == ""
    assert done.code == any(line.startswith("error:") for line in done.findings)
    return about_site(done.findings, lonely=lonely)


@pytest.mark.parametrize(
    ("status", "line"),
    [
        (
            403,
            (
                "error: {url}: uploads from here are forbidden (403)."
                " Fix: add this machine's address to the allowed networks of the upstream"
            ),
        ),
        (
            201,
            (
                "warning: {url}: it stored relayd-check, which it should have refused (201). Fix:"
                " remove that file from its spool; use a web server that refuses partial uploads"
            ),
        ),
        (
            404,
            (
                "warning: {url}: this path does not exist (404)."
                " Fix: check the configuration of the web server there, and general.https_port"
            ),
        ),
        (
            302,
            (
                "error: {url}: it redirects (302), which uploads never follow."
                " Fix: configure the final host and port"
            ),
        ),
        (
            503,
            (
                "warning: {url}: the web server there answers 503."
                " Fix: check the error log of that web server"
            ),
        ),
    ],
)
async def test_an_answer_that_prevents_uploads_is_reported(
    site: Site, status: int, line: str
) -> None:
    """An answer that uploads would fail with is a finding for both paths."""
    async with upstream(site, OnTime(status, [("Location", "/")])) as peer:
        urls = (f"{peer.url}/inventories/", f"{peer.url}/reports/")
        assert await findings(site) == [line.format(url=url) for url in urls]


@pytest.mark.parametrize("status", [400, 405, 409, 412, 501])
async def test_a_refusal_of_the_request_itself_is_expected(site: Site, status: int) -> None:
    """A server that accepts the password and then refuses the request gives no finding."""
    async with upstream(site, OnTime(status)) as peer:
        assert await findings(site) == []
        assert {request.method for request in peer.requests} == {"PUT"}
        headers = [request.headers for request in peer.requests]
        assert all({"if-match", "content-range"} <= names.keys() for names in headers)


@pytest.mark.parametrize(
    ("shift", "line"),
    [
        (timedelta(seconds=100), "warning: the upstream 127.0.0.1: its clock is {} s ahead of"),
        (timedelta(hours=-1), "error: the upstream 127.0.0.1: its clock is {} s behind"),
    ],
)
async def test_another_clock_is_reported(site: Site, shift: timedelta, line: str) -> None:
    """A clock that is minutes off is a warning, one that is an hour off an error."""
    date = format_datetime(datetime.now(UTC) + shift, usegmt=True)
    async with upstream(site, Answer(409, [("Date", date)])):
        (found,) = await findings(site)
    seconds = int(found.split(" clock is ")[1].split(" ")[0])
    assert abs(seconds - abs(shift.total_seconds())) < 20
    assert found == (
        f"{line.format(seconds)} this one."
        " Fix: synchronize both clocks with NTP (chronyd, systemd-timesyncd)"
    )


async def test_a_closed_port_is_reported(site: Site) -> None:
    """A closed port is reported with the reason of the system."""
    port = free_port()
    below(site, port)
    (line,) = await findings(site, lonely=True)
    assert line.startswith(f"error: https://127.0.0.1:{port}: no connection: ")
    assert line.endswith(
        "Connection refused. Fix: start the web server there,"
        " or correct output.upstream.host or general.https_port"
    )


async def test_an_unknown_name_is_reported(site: Site) -> None:
    """A host name that does not resolve is a finding of its own."""
    below(site, 443, host="nowhere.invalid")
    (line,) = await findings(site, lonely=True)
    assert line.startswith("error: nowhere.invalid: the name cannot be resolved: ")
    assert line.endswith(" Fix: correct output.upstream.host, or name resolution on this machine")


async def test_a_silent_upstream_is_reported_in_time(site: Site) -> None:
    """An upstream that accepts the connection and sends nothing is reported at the deadline."""
    async with upstream(site, Silent(before_tls=True)) as peer:
        (line,) = await findings(site, lonely=True)
    assert line.startswith(f"error: {peer.url}: no connection within 4 s. Fix: ")


@pytest.mark.parametrize("behaviour", [Silent(), Cut("body", 0)], ids=["silent", "cut"])
async def test_an_upstream_without_answer_is_reported(site: Site, behaviour: Behaviour) -> None:
    """The right peer that does not answer the request is a finding for both paths."""
    async with upstream(site, behaviour) as peer:
        lines = await findings(site, lonely=True)
    assert [line.partition(": ")[2].partition("/: ")[0] for line in lines] == [
        f"{peer.url}/inventories",
        f"{peer.url}/reports",
    ]
    fix = "Fix: check that a Rudder web server answers there, and its error log"
    assert all(line.startswith("error: ") and line.endswith(fix) for line in lines)


async def test_another_certificate_than_the_pinned_one(site: Site) -> None:
    """A peer with another certificate is reported, and gets no password."""
    async with upstream(site, Answer(409)) as peer:
        below(site, peer.port, node=make_key_and_cert("somebody else"))
        (line,) = await findings(site, lonely=True)
    assert line.startswith(f"error: {peer.url}: its certificate is not the expected one: ")
    assert line.endswith(
        f" Fix: {COPY} if it was renewed; otherwise find out which server answers there"
    )
    assert peer.http_bytes == 0


async def test_old_tls_is_reported(site: Site, tmp_path: Path) -> None:
    """A server without TLS 1.3 is reported with its fix."""
    port = free_port()
    below(site, port)
    certificate, key = UPSTREAM.write(tmp_path)
    command = ["openssl", "s_server", "-tls1_2", "-accept", f"127.0.0.1:{port}", "-quiet"]
    async with trio.open_nursery() as nursery:
        server = await nursery.start(
            partial(
                trio.run_process,
                [*command, "-cert", str(certificate), "-key", str(key)],
                stdin=subprocess.PIPE,
                check=False,
            )
        )
        await listening(port)
        (line,) = await findings(site, lonely=True)
        server.kill()
    assert line == (
        f"error: https://127.0.0.1:{port}: the TLS handshake failed: TLSV1_ALERT_PROTOCOL_VERSION."
        " Fix: enable TLS 1.3 on the web server there, or correct general.https_port"
    )


async def test_a_server_without_tls_is_reported(site: Site, postgres_server: Server) -> None:
    """A server that does not speak TLS is reported with its fix."""
    port = postgres_server.rudder.port
    below(site, port)
    (line,) = await findings(site, lonely=True)
    assert line.startswith(f"error: https://127.0.0.1:{port}: the TLS handshake ")
    assert line.endswith(
        " Fix: enable TLS 1.3 on the web server there, or correct general.https_port"
    )


async def listening(port: int) -> None:
    """Waits until a program listens on a port of 127.0.0.1."""
    with trio.fail_after(30):
        while True:
            with suppress(OSError):
                stream = await trio.open_tcp_stream("127.0.0.1", port)
                await stream.aclose()
                return
            await trio.sleep(0.01)  # no event for it


@pytest.mark.parametrize(
    ("content", "what"),
    [(None, "cannot be read: No such file or directory"), (b"?", "contains no certificate")],
)
async def test_an_unusable_pin_file_is_reported(
    site: Site, content: bytes | None, what: str
) -> None:
    """A pin file that is missing or not PEM is reported, and no connection is made."""
    pin = site.root / "upstream.pem"
    pin.unlink()
    if content is not None:
        pin.write_bytes(content)
    assert await findings(site, lonely=True) == [f"error: {pin}: {what}. Fix: {COPY}"]


async def test_a_pin_that_the_user_cannot_read(site: Site) -> None:
    """A pin file that only root can read is reported."""
    (site.root / "upstream.pem").chmod(0)
    text = (
        "error: {root}/upstream.pem: user {user} may not read it."
        " Fix: chgrp {group} {root}/upstream.pem && chmod g+r {root}/upstream.pem"
    )
    assert await findings(site, lonely=True) == [fill(text, site)]


@pytest.mark.parametrize(("days", "word"), [(-1, "expired"), (10, "expires")])
async def test_the_end_of_the_pin_is_reported(site: Site, days: int, word: str) -> None:
    """A pinned certificate that has expired or soon will is a warning; it is still trusted."""
    end = datetime.now(UTC) + timedelta(days=days)
    node = make_key_and_cert("upstream", not_after=end)
    async with open_peer(node) as peer:
        peer.behaviour = OnTime(409)
        below(site, peer.port, node=node)
        (line,) = await findings(site)
    assert line == (
        f"warning: {site.root}/upstream.pem: the pinned certificate {word} on {end:%Y-%m-%d},"
        " but is still trusted. Fix: renew it on the upstream, then copy it here"
    )


async def test_unusable_authorities_are_reported(site: Site) -> None:
    """With `cert_validation`, missing or wrong authorities are reported."""
    mode = 'peer_authentication = "cert_validation"'
    async with upstream(site, Answer(409)) as peer:
        missing = site.root / "ca.pem"
        below(site, peer.port, general=f'{mode}\nca_path = "{missing}"')
        assert await findings(site, lonely=True) == [
            (
                f"error: {missing}: does not exist."
                " Fix: write the certificates of the authorities to it, or correct general.ca_path"
            )
        ]
        missing.write_bytes(make_key_and_cert("somebody else").cert_pem)
        (line,) = await findings(site, lonely=True)
    assert line.startswith(f"error: {peer.url}: its certificate is not the expected one: ")
    assert line.endswith(
        " Fix: put its authority into general.ca_path, and its name into output.upstream.host"
    )


def without_rewrites(web: webserver.Web) -> None:
    """Lets an Apache accept whatever mod_dav accepts, partial uploads too."""
    shipped = CONF / "apache" / "rudder-relayd.conf"
    lines = shipped.read_text().splitlines(keepends=True)
    plain = web.own / "plain.conf"
    plain.write_text("".join(line for line in lines if "Rewrite" not in line))
    main = web.own / "apache.conf"
    main.write_text(main.read_text().replace(str(shipped), str(plain)))


@pytest.mark.parametrize(
    ("kind", "change"),
    [("apache", None), ("apache", without_rewrites), ("nginx", None)],
    ids=["apache", "plain mod_dav", "nginx"],
)
async def test_real_web_servers_accept_only_right_passwords(
    site: Site,
    place: Path,
    kind: webserver.Kind,
    change: Callable[[webserver.Web], None] | None,
) -> None:
    """Apache and nginx accept right passwords, refuse wrong ones, and store nothing."""
    nodes = {"node1": make_key_and_cert("node1")}
    web = webserver.write_web(webserver.Web(kind, place, free_port(), nodes))
    if change is not None:
        change(web)
    async with webserver.open_web(web):
        below(
            site,
            web.port,
            node=web.certificate,
            password=webserver.PASSWORD,
            default_password=webserver.INITIAL_PASSWORD,
        )
        assert await findings(site) == []
        below(site, web.port, node=web.certificate, password="wrong", default_password="wrong")
        lines = await findings(site)
    assert [line.partition("/: ")[2].partition(".")[0] for line in lines] == [
        "the password of user rudder is wrong"
    ] * 2
    assert web.spool() == []
