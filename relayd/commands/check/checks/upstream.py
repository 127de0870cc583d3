"""The upstream: can it be reached, is it the right server, and does it accept the passwords?"""

import email.utils
import time
from pathlib import Path
from typing import Final

import trio
from cryptography import x509

from relayd.commands.check.checks.certificates import SOON_S
from relayd.commands.check.checks.clock import seconds_ahead
from relayd.commands.check.model import Finding, Site, error, warning
from relayd.commands.check.service_user.permissions import check_directory, check_file
from relayd.commands.check.settings.places import judge_openness
from relayd.config.main_conf import Settings
from relayd.config.secret import Secret
from relayd.errors import PeerError, PeerStep
from relayd.fleet.peers.client import Clients
from relayd.fleet.peers.proxy import ProxyRoute
from relayd.fleet.peers.urls import base_url
from relayd.fleet.pins import UPSTREAM_PEER, read_pins
from relayd.outputs.upstream.uploads import INVENTORY_UPDATES, NEW_INVENTORIES, REPORTS, Route
from relayd.system.threads import in_thread

#: Seconds for each request; less than the deadline of the check, so that the reason is reported.
QUESTION_S: Final = 4.0

_PIN_KEY: Final = "output.upstream.server_certificate_file"
_TRUST: Final = "which server gets the passwords and the files"
_COPY: Final = f"copy the upstream's certificate into {_PIN_KEY}"

#: Rudder's web servers check passwords only for PUT, so this is a PUT that must be refused after
#: the password was accepted: of a part of a file (RFC 9110, 14.5; nginx answers 501, others 400),
#: and with an entity tag that no file has (13.1.1; mod_dav answers 412).
_METHOD: Final = "PUT"
_HEADERS: Final = {"If-Match": '"relayd-check"', "Content-Range": "bytes 0-0/1"}
#: No relayd takes a file of this name, even if it were stored.
_NAME: Final = "relayd-check"
_NOT_IMPLEMENTED: Final = 501


async def check(site: Site) -> list[Finding]:
    """Check the upstream if one is configured."""
    general, upstream = site.settings.general, site.settings.output.upstream
    if not upstream.host or (site.my_id == "root" and not site.to_upstream):
        return []  # a root server has no policy server above it
    route = ProxyRoute(general.https_proxy, general.no_proxy)
    try:
        pins, found = await in_thread(_read_pins, site, abandon_on_cancel=True)
        if route.proxy_for(upstream.host) is None:  # else the proxy looks it up
            await trio.socket.getaddrinfo(upstream.host, general.https_port)
    except _UnusablePinError as failure:
        return failure.findings
    except OSError as failure:
        what = f"the name cannot be resolved: {failure.strerror or failure}"
        fix = "correct output.upstream.host, or name resolution on this machine"
        return [error("upstream.name", upstream.host, what, fix)]
    clients = Clients(general.peer_authentication, ca_path=general.ca_path, route=route)
    clients.update({UPSTREAM_PEER: pins})
    try:
        return found + await _ask(site, clients, base_url(upstream.host, general.https_port))
    finally:
        await clients.aclose()


class _UnusablePinError(Exception):
    """No certificates to verify the upstream with, so that it is not contacted."""

    def __init__(self, *findings: Finding) -> None:
        super().__init__()
        self.findings = list(findings)


def _read_pins(site: Site) -> tuple[tuple[bytes, ...], list[Finding]]:
    """Return the certificates to pin if pins are used, and the findings about them."""
    general = site.settings.general
    found: list[Finding] = []
    if general.peer_authentication == "cert_validation" and general.ca_path is not None:
        _check_authorities(site, general.ca_path)
        found = judge_openness(site, "upstream.writable", general.ca_path, _TRUST)
    if general.peer_authentication != "cert_pinning":
        return (), found
    path = site.settings.output.upstream.server_certificate_file
    denied = check_file(site, path, "upstream.permissions")
    if denied:
        raise _UnusablePinError(*denied)
    try:
        pins = read_pins(path)
    except PeerError as failure:
        raise _UnusablePinError(error("upstream.pin_file", path, failure.detail, _COPY)) from None
    return pins, judge_openness(site, "upstream.writable", path, _TRUST) + _judge_dates(path, pins)


def _check_authorities(site: Site, path: Path) -> None:
    if not path.exists():
        fix = "write the certificates of the authorities to it, or correct general.ca_path"
        raise _UnusablePinError(error("upstream.authorities", path, "does not exist", fix))
    if path.is_dir():
        denied = check_directory(site, path, "upstream.permissions", write=False)
    else:
        denied = check_file(site, path, "upstream.permissions")
    if denied:
        raise _UnusablePinError(*denied)


def _judge_dates(path: Path, pins: tuple[bytes, ...]) -> list[Finding]:
    """Report the dates of a pinned certificate, which are not enforced."""
    last = max(x509.load_der_x509_certificate(pin).not_valid_after_utc for pin in pins)
    left = last.timestamp() - time.time()
    if left >= SOON_S:
        return []
    word = "expired" if left < 0 else "expires"
    what = f"the pinned certificate {word} on {last:%Y-%m-%d}, but is still trusted"
    fix = "renew it on the upstream, then copy it here"
    return [warning("upstream.dates", path, what, fix)]


async def _ask(site: Site, clients: Clients, url: str) -> list[Finding]:
    """Verify that it is the right peer, then try both passwords concurrently."""
    try:
        with trio.fail_after(QUESTION_S):
            await clients.probe(UPSTREAM_PEER, url)
    except trio.TooSlowError:
        return [_unreachable(url, f"no connection within {QUESTION_S:.0f} s")]
    except PeerError as failure:
        return [_judge_peer(site, url, failure)]
    found: list[Finding] = []
    async with trio.open_nursery() as nursery:
        for route in _trials(site.settings):
            nursery.start_soon(_try, site, clients, url, route, found, name=route.path)
    return sorted(found, key=lambda finding: finding.where)


def _trials(settings: Settings) -> list[Route]:
    """Return a kind of file for each password that is used."""
    processing, trials = settings.processing, []
    if processing.reporting.output == "upstream":
        trials.append(REPORTS)
    elif processing.inventory.output == "upstream":
        trials.append(INVENTORY_UPDATES)
    if processing.inventory.output == "upstream":
        trials.append(NEW_INVENTORIES)
    return trials


async def _try(site: Site, clients: Clients, url: str, route: Route, found: list[Finding]) -> None:
    where = f"{url}/{route.path}/"
    upstream = site.settings.output.upstream
    password = getattr(upstream, route.credential)
    auth = upstream.user, password or Secret("")
    begun = time.time()
    try:
        with trio.fail_after(QUESTION_S):
            async with clients.request(
                UPSTREAM_PEER, _METHOD, where + _NAME, headers=_HEADERS, content=b"", auth=auth
            ) as answer:
                status, date = answer.status, answer.headers.get("date", "")
    except trio.TooSlowError:
        found.append(_silent(where, f"no answer within {QUESTION_S:.0f} s"))
        return
    except PeerError as failure:
        found.append(_silent(where, str(failure)))
        return
    ahead = _clock(date, begun)
    if ahead is not None:
        site.clocks[f"the upstream {upstream.host}"] = ahead
    key = f"output.upstream.{route.credential}"
    found.extend(judge_status(status, where, key, upstream.user))


def judge_status(status: int, where: str, key: str, user: str) -> list[Finding]:
    """Judge the answer to a request that must be refused.

    Args:
        status: the HTTP status.
        where: the URL of the request.
        key: configuration key of the password that was sent.
        user: the user that was sent.
    """
    if status == 401:
        fix = f"set {key} to the password in the upstream's htpasswd file"
        return [error("upstream.password", where, f"the password of user {user} is wrong", fix)]
    if status == 403:
        fix = "add this machine's address to the allowed networks of the upstream"
        return [error("upstream.forbidden", where, "uploads from here are forbidden (403)", fix)]
    if status == 404:
        fix = "check the configuration of the web server there, and general.https_port"
        return [warning("upstream.path", where, "this path does not exist (404)", fix)]
    if 300 <= status < 400:
        what = f"it redirects ({status}), which uploads never follow"
        return [error("upstream.redirect", where, what, "configure the final host and port")]
    if status < 300:
        what = f"it stored {_NAME}, which it should have refused ({status})"
        fix = "remove that file from its spool; use a web server that refuses partial uploads"
        return [warning("upstream.stored", where, what, fix)]
    if status >= 500 and status != _NOT_IMPLEMENTED:
        what = f"the web server there answers {status}"
        return [warning("upstream.trouble", where, what, "check the error log of that web server")]
    return []


def _judge_peer(site: Site, url: str, failure: PeerError) -> Finding:
    """Return the finding for an unreachable peer, one without TLS 1.3, or an unexpected one."""
    what = str(failure)
    if failure.step is PeerStep.CONNECT:
        return _unreachable(url, what)
    if failure.step is PeerStep.TLS:
        fix = "enable TLS 1.3 on the web server there, or correct general.https_port"
        return error("upstream.tls", url, what, fix)
    if site.settings.general.peer_authentication == "cert_validation":
        fix = "put its authority into general.ca_path, and its name into output.upstream.host"
    else:
        fix = f"{_COPY} if it was renewed; otherwise find out which server answers there"
    return error("upstream.identity", url, what, fix)


def _unreachable(url: str, what: str) -> Finding:
    fix = "start the web server there, or correct output.upstream.host or general.https_port"
    return error("upstream.unreachable", url, what, fix)


def _silent(where: str, detail: str) -> Finding:
    fix = "check that a Rudder web server answers there, and its error log"
    return error("upstream.silent", where, detail, fix)


def _clock(date: str, begun: float) -> float | None:
    """Return by how many seconds the clock of a Date header (RFC 9110, 6.6.1) is ahead."""
    try:
        theirs = email.utils.parsedate_to_datetime(date).timestamp()
    except ValueError:
        return None
    # The header has whole seconds, rounded down.
    return seconds_ahead(theirs + 0.5, begun)
