"""The address of the HTTP API."""

import errno
import ipaddress
import os
import socket
from pathlib import Path
from typing import Final

import trio

from relayd.commands.check.model import Finding, Site, error, skipped, warning
from relayd.commands.check.service_user.permissions import check_directory
from relayd.commands.check.surroundings.api import ANSWER_S, NoAnswer, document, get
from relayd.commands.check.surroundings.units import makes_directory
from relayd.config.values import Listen
from relayd.fleet.peers.urls import API

_UNPRIVILEGED: Final = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")

Address = tuple[socket.AddressFamily, tuple[str, int]]


async def check(site: Site) -> list[Finding]:
    """Check that relayd can listen, or already listens, on addresses of this machine only."""
    listen = site.settings.general.listen
    where = f"general.listen {listen}"
    if listen.path:
        return _check_socket_directory(site, Path(listen.path).parent)
    try:
        addresses = await _resolve(listen.host, listen.port)
    except OSError as failure:
        what = f"{listen.host} cannot be resolved: {failure.strerror or failure}"
        return [error("listen.name", where, what, 'set it to "127.0.0.1:3030"')]
    found = _judge_port(site, where, listen.port)
    for address in addresses:
        found += await _check_address(where, address)
    return found or _judge_openness(where, addresses)


def _check_socket_directory(site: Site, directory: Path) -> list[Finding]:
    """Check the directory of a Unix socket, which systemd removes while relayd is stopped."""
    if not directory.exists() and makes_directory(directory):
        return []
    return check_directory(site, directory, "listen.permissions", write=True)


async def _resolve(host: str, port: int) -> list[Address]:
    entries = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [(family, (str(place[0]), port)) for family, _, _, _, place in entries]


def _judge_openness(where: str, addresses: list[Address]) -> list[Finding]:
    if all(ipaddress.ip_address(place[0].split("%")[0]).is_loopback for _, place in addresses):
        return []
    what = "other machines can reach the HTTP API, which has no authentication"
    fix = 'set it to "127.0.0.1:3030", behind the web server'
    return [warning("listen.public", where, what, fix)]


def _judge_port(site: Site, where: str, port: int) -> list[Finding]:
    try:
        first = int(_UNPRIVILEGED.read_text(encoding="ascii"))
    except (OSError, ValueError):
        first = 1024
    if port >= first or site.account.uid == 0:
        return []
    what = f"user {site.account.name} may not listen on ports below {first}"
    return [error("listen.privileged", where, what, f"use a port from {first} on")]


async def _check_address(where: str, address: Address) -> list[Finding]:
    family, place = address
    if await _is_taken(place):
        return await _ask_listener(where, place)
    # Bound for a moment, without listening, so that it does not disturb a starting relayd.
    with socket.socket(family, socket.SOCK_STREAM) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind(place)
        except OSError as failure:
            return [_judge_bind(where, place, failure)]
    return []


def _judge_bind(where: str, place: tuple[str, int], failure: OSError) -> Finding:
    if failure.errno == errno.EADDRNOTAVAIL:
        what = f"this machine has no address {place[0]}"
        return error("listen.address", where, what, 'set it to "127.0.0.1:3030"')
    what = f"cannot be bound: {failure.strerror or os.strerror(failure.errno or 0)}"
    return error("listen.address", where, what, "use another address or port")


async def _is_taken(place: tuple[str, int]) -> bool:
    try:
        with trio.move_on_after(ANSWER_S):
            stream = await trio.open_tcp_stream(*place)
            await stream.aclose()
    except OSError:
        return False
    return True


async def _ask_listener(where: str, place: tuple[str, int]) -> list[Finding]:
    """Report a listening program that is not relayd, or does not answer."""
    host, port = place
    answer = await get(Listen(host=host, port=port), f"{API}/system/info")
    if answer is NoAnswer.SILENT:
        what = "a program listens there but does not answer: another program, or relayd hangs"
        return [skipped("listen.silent", where, what, f"find it: ss -ltnp sport = :{port}")]
    if not isinstance(answer, NoAnswer) and document(answer, "getSystemInfo") is not None:
        return []
    what = "another program listens there"
    fix = f"stop it (ss -ltnp sport = :{port} names it), or use another port"
    return [error("listen.taken", where, what, fix)]
