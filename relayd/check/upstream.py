"""The policy server above: whether it can be reached, is the right one, and takes our passwords."""

import email.utils
import time
from pathlib import Path
from typing import Final

import trio
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from relayd.check.certificates import SOON_S
from relayd.check.clock import seconds_ahead
from relayd.check.model import Finding, Site, error, warning
from relayd.check.permissions import check_file
from relayd.config import Settings
from relayd.errors import PeerError
from relayd.http.client import Clients
from relayd.secret import Secret

#: Seconds for each question; less than the check's own deadline, so that the reason is told.
QUESTION_S: Final = 4.0

_PEER: Final = "upstream"
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
    upstream = site.settings.output.upstream
    if not upstream.host:
        return []
    found, pins = _read_pins(site)
    if any(finding.code != "upstream.dates" for finding in found):
        return found
    host = f"[{upstream.host}]" if ":" in upstream.host else upstream.host
    url = f"https://{host}:{site.settings.general.https_port}"
    try:
        await trio.socket.getaddrinfo(upstream.host, site.settings.general.https_port)
    except OSError as failure:
        what = f"the name cannot be resolved: {failure.strerror or failure}"
        mend = "correct output.upstream.host, or the name service of this machine"
        return [*found, error("upstream.name", upstream.host, what, mend)]
    general = site.settings.general
    clients = Clients(general.peer_authentication, ca_path=general.ca_path)
    clients.update({_PEER: pins})
    try:
        return found + await _ask(site, clients, url)
    finally:
        await clients.aclose()


def _read_pins(site: Site) -> tuple[list[Finding], tuple[bytes, ...]]:
    """The certificates to pin, where pins are used, and what is wrong with their files."""
    general = site.settings.general
    if general.peer_authentication == "dangerous_none":
        return [], ()
    if general.peer_authentication == "cert_validation":
        if general.ca_path is None:
            return [], ()
        if not general.ca_path.exists():
            mend = "write the authorities' certificates there, or correct general.ca_path"
            return [error("upstream.authorities", general.ca_path, "is not there", mend)], ()
        return check_file(site, general.ca_path, "upstream.permissions"), ()
    path = site.settings.output.upstream.server_certificate_file
    found = check_file(site, path, "upstream.permissions")
    if found:
        return found, ()
    try:
        certificates = x509.load_pem_x509_certificates(path.read_bytes())
    except OSError as failure:
        what = f"cannot be read: {failure.strerror}"
        return [error("upstream.pin_file", path, what, _COPY)], ()
    except ValueError:
        return [error("upstream.pin_file", path, "holds no certificate (PEM)", _COPY)], ()
    ders = tuple(certificate.public_bytes(Encoding.DER) for certificate in certificates)
    return _judge_dates(path, certificates), ders


def _judge_dates(path: Path, certificates: list[x509.Certificate]) -> list[Finding]:
    """Dates of a pinned certificate are told, not enforced."""
    last = max(certificate.not_valid_after_utc for certificate in certificates)
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
            await clients.probe(_PEER, url)
    except trio.TooSlowError:
        return [_unreachable(url, f"no connection within {QUESTION_S:.0f} s")]
    except PeerError as failure:
        return [_judge_peer(site, url, failure)]
    found: list[Finding] = []
    async with trio.open_nursery() as nursery:
        for trial in _trials(site.settings):
            nursery.start_soon(_try, site, clients, url, trial, found, name=trial[0])
    return sorted(found, key=lambda finding: finding.where)


def _trials(settings: Settings) -> list[tuple[str, str, Secret]]:
    """Path, configuration key and password of what is sent upstream."""
    upstream, processing = settings.output.upstream, settings.processing
    trials = []
    if upstream.password is not None:
        password, key = upstream.password, "output.upstream.password"
        path = "reports" if processing.reporting.output == "upstream" else "inventory-updates"
        trials.append((path, key, password))
    if processing.inventory.output == "upstream":
        key = "output.upstream.default_password"
        trials.append(("inventories", key, upstream.default_password))
    return trials


async def _try(
    site: Site, clients: Clients, url: str, trial: tuple[str, str, Secret], found: list[Finding]
) -> None:
    path, key, password = trial
    where = f"{url}/{path}/"
    auth = site.settings.output.upstream.user, password
    begun = time.time()
    try:
        with trio.fail_after(QUESTION_S):
            async with clients.request(
                _PEER, _METHOD, where + _NAME, headers=_HEADERS, content=b"", auth=auth
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
        site.clocks[f"the upstream {site.settings.output.upstream.host}"] = ahead
    found.extend(judge_status(status, where, key, site.settings.output.upstream.user))


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
    """Seconds by which the clock of a Date header (RFC 9110, 6.6.1) is ahead."""
    try:
        theirs = email.utils.parsedate_to_datetime(date).timestamp()
    except ValueError:
        return None
    # The header has whole seconds, cut off.
    return seconds_ahead(theirs + 0.5, begun)
