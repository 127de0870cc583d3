"""A connection to PostgreSQL: host after host as libpq does, and how long anything may take.

Runs on asyncio, as asyncpg does; callers cross from Trio.
"""

import asyncio
import os
import random
import socket
from collections.abc import Iterable, Mapping
from typing import Any, Final

import asyncpg
import msgspec

from relayd.outputs.postgres import statements as sql
from relayd.outputs.postgres.connecting.dialer import Address, Dialer
from relayd.outputs.postgres.connecting.liveness import Place
from relayd.outputs.postgres.connecting.surroundings import Surroundings
from relayd.outputs.postgres.connecting.target import Host, Target, chosen_settings, resolve
from relayd.outputs.postgres.faults import FAULTS, ConnectError, Kind, Step, explain_connecting
from relayd.outputs.postgres.sqlstate import READ_ONLY
from relayd.system.shortage import shortage_of

#: asyncpg publishes no types of its own.
Connection = Any

#: How an attempt uses TLS, for each sslmode; a second attempt follows where the first is refused.
_ATTEMPTS: Final = {
    "disable": ("never",),
    "allow": ("never", "always"),
    "prefer": ("try", "never"),
}
#: Where libpq goes on with the next host; any other refusal is final.
_NEXT_HOST: Final = frozenset({Step.NAME, Step.REACH, Step.TIME})
_STARTING: Final = "57P03"


class Patience(msgspec.Struct, frozen=True):
    """How long the database may take, in seconds.

    Attributes:
        connect: until a connection to one host is made.
        search: until one of several hosts has answered, which share it.
        statement: for one statement, and for a whole transaction of ordinary size.
        lock: until a lock that another session holds is released.
        per_mib: more for each MiB of a batch, so that a slow server can take a huge run log.
    """

    connect: float = 5.0
    search: float = 20.0
    statement: float = 30.0
    lock: float = 10.0
    per_mib: float = 1.0


class HostOrder:
    """Which host is tried first: the one that answered last, else the one not tried yet."""

    def __init__(self) -> None:
        self._first = 0

    def indexes(self, count: int) -> list[int]:
        """Return the order of so many hosts."""
        first = self._first % count
        return [*range(first, count), *range(first)]

    def pass_over(self) -> None:
        """Begin next time after the host that answered last, which does not serve."""
        self._first += 1

    def begin_with(self, index: int) -> None:
        """Begin with this one next time."""
        self._first = index


async def connect(
    parameters: Mapping[str, Any],
    patience: Patience,
    *,
    order: HostOrder | None = None,
    surroundings: Surroundings | None = None,
) -> Connection:
    """Open a connection. Rely on no state of its session: a pooler may be between.

    Args:
        parameters: libpq's options, the password among them.
        patience: how long to wait.
        order: remembers the host that answered.
        surroundings: those of this process if None.

    Raises:
        ConnectError: it failed; the text names the host, the option or the file.
    """
    target = resolve(parameters, surroundings or Surroundings.of_process())
    order = order or HostOrder()
    wanted = target.number("connect_timeout", 0)
    own = float(max(wanted, 2)) if wanted > 0 else patience.connect
    limit = min(own, patience.search / len(target.hosts))
    faults: list[ConnectError] = []
    for kind in _kinds(target):
        for index in _sequence(target, order):
            order.begin_with(index + 1)  # unless it answers, also where a deadline ends this
            try:
                connection = await _reach(target, target.hosts[index], limit, kind)
            except ConnectError as fault:
                faults.append(fault)
                if fault.step not in _NEXT_HOST and fault.sqlstate != _STARTING:
                    order.begin_with(index)
                    raise _summed(faults) from fault.__cause__
            else:
                order.begin_with(index)
                return connection
    raise _summed(faults) from faults[-1].__cause__


def transaction_limits(parameters: Mapping[str, Any], patience: Patience) -> str:
    """Return statements that bound a transaction, except by settings that the operator chose.

    They are local to it: a pooler passes no settings on, and gives the session to others.
    """
    chosen = chosen_settings(str(parameters.get("options") or os.environ.get("PGOPTIONS", "")))
    limits = {
        "statement_timeout": patience.statement,
        "lock_timeout": patience.lock,
        "idle_in_transaction_session_timeout": 2 * patience.statement,
    }
    return sql.WARN + "".join(
        sql.LIMIT % (name, ms(seconds)) for name, seconds in limits.items() if name not in chosen
    )


def ms(seconds: float) -> str:
    """Return a duration as PostgreSQL settings take it: a number without a unit is milliseconds."""
    return f"{1000 * seconds:.0f}"


def peer(connection: Connection) -> str:
    """Return the address of the server, as `host:port` or the path of its socket."""
    address = connection._addr
    return address if isinstance(address, str) else f"{address[0]}:{address[1]}"


def place(connection: Connection) -> Place:
    """Return the address of the server, as the socket gives it."""
    found: Place = connection._transport.get_extra_info("peername")
    return found


def has_several(parameters: Mapping[str, Any]) -> bool:
    """Return whether there is another host to go to."""
    hosts = parameters.get("host") or parameters.get("hostaddr") or os.environ.get("PGHOST", "")
    return "," in str(hosts)


def _kinds(target: Target) -> tuple[str, ...]:
    """Return the kinds of server to look for, one after the other."""
    wanted = target.options.get("target_session_attrs", "any")
    return ("standby", "any") if wanted == "prefer-standby" else (wanted,)


def _sequence(target: Target, order: HostOrder) -> Iterable[int]:
    indexes = order.indexes(len(target.hosts))
    if target.options.get("load_balance_hosts") == "random":
        random.shuffle(indexes)
    return indexes


async def _reach(target: Target, host: Host, limit: float, kind: str) -> Connection:
    """Connect to one host, by the first of its addresses that answers."""
    try:
        async with asyncio.timeout(limit):
            addresses = await _addresses(host)
    except (*FAULTS, UnicodeError) as error:
        raise explain_connecting(error, str(host)) from error
    for address in addresses:
        try:
            connection = await _negotiate(target, host, address, limit / len(addresses))
            await _need(connection, host, kind, limit)
        except ConnectError as fault:
            if address is addresses[-1] or fault.step not in _NEXT_HOST:
                raise
        else:
            return connection
    raise AssertionError("a name has an address")


async def _addresses(host: Host) -> list[Address]:
    """Resolve a host; a name with several addresses is tried at each, like several hosts."""
    if (path := host.socket) is not None:
        return [Address(socket.AF_UNIX, f"\0{path[1:]}" if path.startswith("@") else path)]
    flags = socket.AI_NUMERICHOST if host.address else 0
    name = host.address or host.name
    try:
        found = await asyncio.get_running_loop().getaddrinfo(
            name, host.port, type=socket.SOCK_STREAM, flags=flags
        )
    except RuntimeError as error:
        if (shortage := shortage_of(error)) is None:  # of threads: a host name is resolved in one
            raise
        raise ConnectError(shortage, Step.NAME, "transient", host=str(host)) from error
    return [Address(family, place) for family, _, _, _, place in found]


async def _negotiate(target: Target, host: Host, address: Address, limit: float) -> Connection:
    """Connect to one address, with TLS and without as sslmode says."""
    attempts = _ATTEMPTS.get(target.ssl_mode, ("always",))
    if address.family == socket.AF_UNIX:
        attempts = ("never",)
    first: ConnectError | None = None
    for tls in attempts:
        dialer = Dialer(asyncio.get_running_loop(), target, host, address, tls=tls)
        try:
            return await _dial(dialer, target, host, limit)
        except ConnectError as fault:
            if first is not None:
                raise _both(first, fault) from fault
            refused = fault.step is Step.LOGIN and fault.sqlstate[:2] in {"28", "08"}
            failed = dialer.encrypted and fault.step in {Step.TLS, Step.FILE, Step.REACH}
            again = refused and dialer.encrypted == (tls == "try")
            if tls is attempts[-1] or not (again or failed):
                raise
            first = fault
    raise AssertionError("there is a last attempt")


async def _dial(dialer: Dialer, target: Target, host: Host, limit: float) -> Connection:
    try:
        async with asyncio.timeout(limit):
            return await asyncpg.connect(
                loop=dialer,
                host=host.name or host.address,
                port=host.port,
                user=target.user,
                # Not None, with which asyncpg would look for a password by itself.
                password=(lambda: "") if host.password is None else host.password.reveal(),
                database=target.database,
                ssl=False,
                direct_tls=False,
                server_settings=target.settings,
                target_session_attrs="any",
                krbsrvname="postgres",
                gsslib="gssapi",
                timeout=None,
                # Names of prepared statements do not survive a pooler's change of session.
                statement_cache_size=0,
            )
    except BaseException as error:
        # asyncpg says goodbye, and over TLS would wait half a minute for the same of the server.
        dialer.abort()
        if isinstance(error, (*FAULTS, UnicodeError)):
            raise dialer.fault or explain_connecting(error, str(host)) from error
        raise


async def _need(connection: Connection, host: Host, kind: str, limit: float) -> None:
    """Close the connection unless it is to the kind of server that is wanted."""
    if kind == "any":
        return
    try:
        async with asyncio.timeout(limit):
            await connection.execute("BEGIN")
            standby, read_only = await connection.fetchrow(
                "SELECT pg_is_in_recovery(), current_setting('transaction_read_only') = 'on'"
            )
            await connection.execute("ROLLBACK")
    except BaseException as error:
        connection.terminate()
        if isinstance(error, FAULTS):
            raise explain_connecting(error, str(host)) from error
        raise
    suits = {
        "read-write": not read_only,
        "read-only": read_only,
        "primary": not standby,
        "standby": standby,
    }
    if not suits[kind]:
        connection.terminate()
        detail = f"not {kind}, which target_session_attrs wants"
        state = READ_ONLY if kind in ("read-write", "primary") else ""
        raise ConnectError(detail, Step.REACH, sqlstate=state, host=str(host))


def _both(first: ConnectError, second: ConnectError) -> ConnectError:
    """Return the refusals with TLS and without as one."""
    if first.detail == second.detail:
        return second
    chosen = first if first.sqlstate == "28P01" else second
    detail = f"{first.reason}; {second.reason}"
    return ConnectError(detail, chosen.step, chosen.kind, chosen.sqlstate, host=chosen.host)


def _summed(faults: list[ConnectError]) -> ConnectError:
    """Return the faults of all hosts as one; it may end by itself if one of them may."""
    last = faults[-1]
    if len(faults) == 1:
        return last
    details = dict.fromkeys(fault.detail for fault in faults)
    kind: Kind = "transient" if any(fault.kind == "transient" for fault in faults) else "operator"
    return ConnectError("; ".join(details), last.step, kind, last.sqlstate)
