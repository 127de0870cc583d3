"""The policy server above: whether it can be reached, is the right one, and takes our passwords."""

import email.utils
import time
from pathlib import Path
from typing import Final

import trio
from cryptography import x509

from relayd.commands.check.checks.certificates import SOON_S
from relayd.commands.check.checks.clock import seconds_ahead
from relayd.commands.check.model import Finding, Site, error, warning
from relayd.commands.check.service_user.permissions import check_file
from relayd.config.main_conf import Settings
from relayd.config.secret import Secret
from relayd.errors import PeerError
from relayd.fleet.peers.client import Clients
from relayd.fleet.peers.urls import base_url
from relayd.fleet.pins import UPSTREAM_PEER, read_pins
from relayd.outputs.upstream.uploads import INVENTORY_UPDATES, NEW_INVENTORIES, REPORTS, Route
from relayd.system.threads import in_thread

#: Seconds for each question; less than the check's own deadline, so that the reason is told.
QUESTION_S: Final = 4.0

_PIN_KEY: Final = "output.upstream.server_certificate_file"
_COPY: Final = f"copy the upstream's certificate into {_PIN_KEY}"

#: Web servers of Rudder let no other method than PUT through to their passwords, so this is a PUT
#: that must be refused once the password is known to be right: of a part of a file (RFC 9110, 14.5;
#: nginx answers 501, others 400), and of a file with a tag that none has (13.1.1; mod_dav: 412).
_METHOD: Final = "PUT"
_HEADERS: Final = {"If-Match": '"relayd-check"', "Content-Range": "bytes 0-0/1"}
#: Even if it were stored, no relayd takes a file of this name.
_NAME: Final = "relayd-check"
_NOT_IMPLEMENTED: Final = 501


async def check(site: Site) -> list[Finding]:
    """Ask the upstream, where there is one."""
    general, upstream = site.settings.general, site.settings.output.upstream
    if not upstream.host:
        return []
    try:
        pins, found = await in_thread(_read_pins, site, abandon_on_cancel=True)
        await trio.socket.getaddrinfo(upstream.host.strip("[]"), general.https_port)
    except _UnusablePinError as failure:
        return failure.findings
    except OSError as failure:
        what = f"the name cannot be resolved: {failure.strerror or failure}"
        mend = "correct output.upstream.host, or the name service of this machine"
        return [error("upstream.name", upstream.host, what, mend)]
    clients = Clients(general.peer_authentication, ca_path=general.ca_path)
    clients.update({UPSTREAM_PEER: pins})
    try:
        return found + await _ask(site, clients, base_url(upstream.host, general.https_port))
    finally:
        await clients.aclose()


class _UnusablePinError(Exception):
    """Without certificates to know it by, nobody is asked."""

    def __init__(self, *findings: Finding) -> None:
        super().__init__()
        self.findings = list(findings)


def _read_pins(site: Site) -> tuple[tuple[bytes, ...], list[Finding]]:
    """Return the certificates to pin, where pins are used, and what is doubtful about them."""
    general = site.settings.general
    if general.peer_authentication == "cert_validation" and general.ca_path is not None:
        _check_authorities(site, general.ca_path)
    if general.peer_authentication != "cert_pinning":
        return (), []
    path = site.settings.output.upstream.server_certificate_file
    denied = check_file(site, path, "upstream.permissions")
    if denied:
        raise _UnusablePinError(*denied)
    try:
        pins = read_pins(path)
    except PeerError as failure:
        what = str(failure).removeprefix(f"{path}: ")
        raise _UnusablePinError(error("upstream.pin_file", path, what, _COPY)) from None
    return pins, _judge_dates(path, pins)


def _check_authorities(site: Site, path: Path) -> None:
    if not path.exists():
        mend = "write the authorities' certificates there, or correct general.ca_path"
        raise _UnusablePinError(error("upstream.authorities", path, "is not there", mend))
    denied = check_file(site, path, "upstream.permissions")
    if denied:
        raise _UnusablePinError(*denied)


def _judge_dates(path: Path, pins: tuple[bytes, ...]) -> list[Finding]:
    """Judge the dates of a pinned certificate, which are reported, not enforced."""
    last = max(x509.load_der_x509_certificate(pin).not_valid_after_utc for pin in pins)
    left = last.timestamp() - time.time()
    if left >= SOON_S:
        return []
    word = "expired" if left < 0 else "expires"
    what = f"the pinned certificate {word} on {last:%Y-%m-%d}; it is trusted all the same"
    mend = "renew it on the upstream, then copy it here"
    return [warning("upstream.dates", path, what, mend)]


async def _ask(site: Site, clients: Clients, url: str) -> list[Finding]:
    """Look whether it is the right peer, then try both passwords at once."""
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
    """Return one kind of file for each password that is used."""
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
        found.append(_silent(where, failure.detail))
        return
    ahead = _clock(date, begun)
    if ahead is not None:
        site.clocks[f"the upstream {upstream.host}"] = ahead
    key = f"output.upstream.{route.credential}"
    found.extend(judge_status(status, where, key, upstream.user))


def judge_status(status: int, where: str, key: str, user: str) -> list[Finding]:
    """Tell what the answer to a request that cannot be fulfilled means.

    Args:
        status: of HTTP.
        where: what was asked.
        key: configuration key of the password that was shown.
        user: whose password.
    """
    if status == 401:
        mend = f"set {key} to the one in the upstream's htpasswd file"
        return [error("upstream.password", where, f"the password of user {user} is wrong", mend)]
    if status == 403:
        mend = "add this machine's address to the allowed networks of the upstream"
        return [error("upstream.forbidden", where, "uploads from here are forbidden (403)", mend)]
    if status == 404:
        mend = "see the configuration of the web server there, and general.https_port"
        return [warning("upstream.path", where, "there is no such path (404)", mend)]
    if 300 <= status < 400:
        what = f"it redirects ({status}), which uploads never follow"
        return [error("upstream.redirect", where, what, "name the final host and port")]
    if status < 300:
        what = f"it stored {_NAME}, which it should have refused ({status})"
        mend = "remove that file from its spool; use a web server that refuses parts of files"
        return [warning("upstream.stored", where, what, mend)]
    if status >= 500 and status != _NOT_IMPLEMENTED:
        what = f"the web server there answers {status}"
        return [warning("upstream.trouble", where, what, "see the error log of that web server")]
    return []


def _judge_peer(site: Site, url: str, failure: PeerError) -> Finding:
    """Tell a peer that is not there, one that does not speak TLS 1.3, and another than expected."""
    what = failure.detail
    if what.startswith("no connection"):
        return _unreachable(url, what)
    if "certificate" not in what:
        mend = "have a web server with TLS 1.3 answer there, or correct general.https_port"
        return error("upstream.tls", url, what, mend)
    if site.settings.general.peer_authentication == "cert_validation":
        mend = "put its authority into general.ca_path, and its name into output.upstream.host"
    else:
        mend = f"{_COPY} if it was renewed, else find out who answers there"
    return error("upstream.identity", url, what, mend)


def _unreachable(url: str, what: str) -> Finding:
    mend = "start the web server there, or correct output.upstream.host or general.https_port"
    return error("upstream.unreachable", url, what, mend)


def _silent(where: str, detail: str) -> Finding:
    mend = "see that a web server of Rudder answers there, and its error log"
    return error("upstream.silent", where, detail, mend)


def _clock(date: str, begun: float) -> float | None:
    """Return seconds by which the clock of a Date header (RFC 9110, 6.6.1) is ahead."""
    try:
        theirs = email.utils.parsedate_to_datetime(date).timestamp()
    except ValueError:
        return None
    # The header has whole seconds, cut off.
    return seconds_ahead(theirs + 0.5, begun)
