"""The HTTPS server for agents and relays: its identity, accounts, networks and addresses."""

import errno
import os
import socket
import ssl
from pathlib import Path
from typing import Final, Literal

from relayd.api.door.accounts import read_entries
from relayd.api.door.networks import read_networks
from relayd.api.door.tls import KeyFiles, build_context
from relayd.commands.check.model import Finding, Site, error, warning
from relayd.commands.check.service_user.foreign import elsewhere, is_foreign
from relayd.commands.check.service_user.permissions import check_directory, check_file, quoted
from relayd.commands.check.settings.places import judge_openness
from relayd.commands.check.surroundings.units import may_bind_low_ports, passes_socket
from relayd.config.main_conf import Listen, ServerSettings
from relayd.errors import StartError
from relayd.spool.layout import inventory_spool, run_log_spool
from relayd.system.threads import in_thread

#: systemd puts credentials there while the service runs.
_CREDENTIALS: Final = Path("/run/credentials")
_UNPRIVILEGED: Final = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")
_ANSWER_S: Final = 2.0
_PORT_FIX: Final = "install the drop-in front-door.conf or the sockets, or use another port"


async def check(site: Site) -> list[Finding]:
    """Check all that `server.listen` needs; nothing without it."""
    if not site.settings.server.listen:
        return []
    return await in_thread(_check, site, abandon_on_cancel=True)


def _check(site: Site) -> list[Finding]:
    server = site.settings.server
    found = _check_identity(site, server)
    found += _check_accounts(site, server.passwords_file, "uploads with a password are refused")
    found += _check_accounts(
        site, server.initial_passwords_file, "inventories of new nodes are refused"
    )
    found += _check_networks(site, "networks", server.networks_file, "nodes may upload")
    found += _check_networks(
        site, "policy_servers", server.policy_servers_file, "server may start agents"
    )
    found += _check_directories(site)
    for listen in server.listen:
        found += _check_address(site, listen)
    return found


def _check_identity(site: Site, server: ServerSettings) -> list[Finding]:
    found: list[Finding] = []
    for path in (server.certificate_file, server.key_file):
        found += check_file(site, path, "server.permissions")
        if path.is_relative_to(_CREDENTIALS) and not path.exists():
            return found  # it exists while the service runs
    found += judge_openness(site, "server.writable", server.key_file, "the identity of this server")
    if found:
        return found
    try:
        build_context(KeyFiles(server.certificate_file, server.key_file))
    except StartError as failure:
        fix = "set server.certificate_file and server.key_file to a pair of PEM files"
        return [error("server.certificate", server.certificate_file, str(failure), fix)]
    return []


def _check_accounts(site: Site, path: Path, effect: str) -> list[Finding]:
    found = check_file(site, path, "server.permissions")
    if found:
        return found
    try:
        entries = read_entries(path.read_text(encoding="utf-8", errors="surrogateescape"))
    except OSError:
        entries = {}
    if entries:
        return []
    what = f"it has no account, so {effect}"
    fix = elsewhere(site, path) if is_foreign(path) else f"htpasswd -c {quoted(path)} rudder"
    return [warning("server.accounts", path, what, fix)]


def _check_networks(
    site: Site, key: Literal["networks", "policy_servers"], path: Path, what: str
) -> list[Finding]:
    fixed = getattr(site.settings.server, key)
    found = check_file(site, path, "server.permissions")
    if found:
        return [] if fixed else found
    try:
        read = read_networks(path.read_text(encoding="utf-8", errors="surrogateescape"))
    except OSError:
        read = ()
    if fixed or read:
        return []
    text = f"it has no network, so no {what}"
    return [warning("server.networks", path, text, f"set {key} of table server in main.conf")]


def _check_directories(site: Site) -> list[Finding]:
    processing = site.settings.processing
    spools = (
        run_log_spool(processing.reporting.directory),
        inventory_spool(processing.inventory.directory),
    )
    found: list[Finding] = []
    # Those that relayd itself takes files from have a check of their own.
    checked = {path for spool in site.spools for path in spool.watched}
    for path in (path for spool in spools for path in spool.watched if path not in checked):
        found += check_directory(site, path, "server.permissions", write=True)
    return found


def _check_address(site: Site, listen: Listen) -> list[Finding]:
    where = f"server.listen {listen}"
    if passes_socket(listen.port):
        return []  # systemd has bound it, and an attempt to connect would start relayd
    try:
        addresses = socket.getaddrinfo(
            listen.host, listen.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except OSError as failure:
        what = f"{listen.host} cannot be resolved: {failure.strerror or failure}"
        return [error("server.address", where, what, "use an address of this machine")]
    found: list[Finding] = []
    for family, _, _, _, place in addresses:
        found += _try(site, where, family, place)
    return found


def _try(
    site: Site, where: str, family: socket.AddressFamily, place: tuple[object, ...]
) -> list[Finding]:
    with socket.socket(family, socket.SOCK_STREAM) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            trial.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            trial.bind(place)
        except OSError as failure:
            return _judge(site, where, place, failure)
    return _judge_port(site, where, int(str(place[1])))


def _judge(site: Site, where: str, place: tuple[object, ...], failure: OSError) -> list[Finding]:
    if failure.errno == errno.EACCES:
        return _judge_port(site, where, int(str(place[1])))
    if failure.errno != errno.EADDRINUSE:
        words = failure.strerror or os.strerror(failure.errno or 0)
        what = f"{place[0]} cannot be bound: {words}"
        return [error("server.address", where, what, "use an address of this machine")]
    if _is_relayd(str(place[0]), int(str(place[1]))):
        return []
    fix = f"stop it (ss -ltnp sport = :{place[1]} names it), or use another port"
    return [error("server.taken", where, "another program listens there", fix)]


def _judge_port(site: Site, where: str, port: int) -> list[Finding]:
    try:
        first = int(_UNPRIVILEGED.read_text(encoding="ascii"))
    except (OSError, ValueError):
        first = 1024
    if port >= first or site.account.uid == 0 or may_bind_low_ports():
        return []
    what = f"user {site.account.name} may not listen on ports below {first}"
    return [error("server.privileged", where, what, _PORT_FIX)]


def _is_relayd(host: str, port: int) -> bool:
    """Return whether the program that listens is relayd, which names no server in its answers."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    # Nothing secret is sent: only whether it is another program matters.
    context.verify_mode = ssl.CERT_NONE
    try:
        with (
            socket.create_connection((host, port), _ANSWER_S) as plain,
            context.wrap_socket(plain) as stream,
        ):
            stream.sendall(b"GET /uuid HTTP/1.1\r\nHost: relayd\r\nConnection: close\r\n\r\n")
            head = stream.recv(4096).lower()
    except (OSError, ValueError):
        return False
    return head.startswith(b"http/1.1 200") and b"\r\nserver:" not in head
