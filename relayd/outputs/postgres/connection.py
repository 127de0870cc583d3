"""A connection to PostgreSQL: its settings, and how long anything on it may take.

Runs on asyncio, as asyncpg does; callers cross from Trio.
"""

import errno
import socket
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

import asyncpg
import msgspec

from relayd.system.threads import is_shortage

#: asyncpg publishes no types of its own.
Connection = Any

#: Unacknowledged bytes are given up after this time, so that a vanished server is noticed.
TCP_USER_TIMEOUT_MS: Final = 30_000


class Patience(msgspec.Struct, frozen=True):
    """How long the database may take, in seconds.

    Attributes:
        connect: until a connection is made.
        statement: for one statement, and for a whole transaction of ordinary size.
        lock: until a lock that another session holds is released.
        per_mib: more for each MiB of a batch, so that a slow server can take a huge run log.
    """

    connect: float = 5.0
    statement: float = 30.0
    lock: float = 10.0
    per_mib: float = 1.0


async def connect(parameters: Mapping[str, Any], patience: Patience) -> Connection:
    """Open a connection.

    Args:
        parameters: keyword arguments of `asyncpg.connect`, the password among them.
        patience: how long to wait, for the connection and later on it.

    Raises:
        OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError: it failed.
    """
    arguments = {"timeout": patience.connect, **parameters}
    arguments["server_settings"] = {
        **_session_settings(parameters, patience),
        **arguments.get("server_settings", {}),
    }
    try:
        connection = await asyncpg.connect(**arguments)
    except RuntimeError as error:
        if not is_shortage(error):  # of threads: a host name is resolved in one
            raise
        raise BlockingIOError(errno.EAGAIN, "cannot start a thread to connect") from error
    except (UnicodeError, OverflowError) as error:  # a host name or a port that is none
        raise OSError(errno.EINVAL, f"no address of a server: {error}") from error
    _bound_silence(connection)
    return connection


def ms(seconds: float) -> str:
    """Return a duration as PostgreSQL settings take it: a number without a unit is milliseconds."""
    return f"{1000 * seconds:.0f}"


def peer(connection: Connection) -> str:
    """Return the address of the server, as `host:port` or the path of its socket."""
    address = connection._addr
    return address if isinstance(address, str) else f"{address[0]}:{address[1]}"


def _session_settings(parameters: Mapping[str, Any], patience: Patience) -> dict[str, str]:
    """Return the settings of each session, except those that the operator's URL contains."""
    own = {
        "application_name": "relayd",
        "statement_timeout": ms(patience.statement),
        "lock_timeout": ms(patience.lock),
        "idle_in_transaction_session_timeout": ms(2 * patience.statement),
    }
    configured = dict(parse_qsl(urlsplit(parameters.get("dsn", "")).query))
    return {key: value for key, value in own.items() if key not in configured}


def _bound_silence(connection: Connection) -> None:
    """Let the kernel give up on a peer that acknowledges nothing (tcp(7))."""
    transport = connection._transport
    found = transport.get_extra_info("socket")
    if found is not None and found.family in (socket.AF_INET, socket.AF_INET6):
        found.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, TCP_USER_TIMEOUT_MS)
