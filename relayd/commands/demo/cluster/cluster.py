"""Three machines on this one, each with etcd, Patroni and PostgreSQL, and HAProxy before them."""

import base64
import json
import os
import secrets
import shutil
import signal
import tempfile
import urllib.request
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final

import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from relayd.commands.demo.cluster import shipped
from relayd.commands.demo.cluster.members import Child, Machine
from relayd.commands.demo.cluster.programs import Programs, find_programs
from relayd.commands.demo.cluster.shipped import MEMBERS, Ports
from relayd.commands.demo.postgres import schema
from relayd.commands.demo.postgres.programs import PostgresAccount, server_account
from relayd.commands.demo.postgres.psql import run_psql
from relayd.commands.demo.postgres.server import ConnectionInfo
from relayd.commands.demo.processes import ports as loopback
from relayd.errors import StartError

#: Seconds for the cluster to start, and to be whole again after a failover.
START_DEADLINE: Final = 120.0
#: Seconds with two standbys of which none may be promoted, until something is done about it.
_UNRECORDED_S: Final = 15.0
_UNRECORDED: Final = "no standby is recorded as synchronous"
#: Seconds in which Patroni acts on a changed configuration: some of its loops.
_FORGOTTEN_AFTER_S: Final = 5.0
_POLL: Final = 0.1
_ANSWER_TIMEOUT: Final = 3.0
_CLEANUP_DEADLINE: Final = 60.0
#: Nothing else is inherited: PGHOST, ETCD_NAME or a locale would change what the programs do.
_ENVIRONMENT: Final = {
    "PATH": f"{os.defpath}:/usr/sbin:/sbin",
    "LC_ALL": "C.UTF-8",
    "TZ": "UTC",
    "PYTHONUNBUFFERED": "1",
}
_API_USER: Final = "patroni"


class Cluster:
    """A cluster that was started by `open_cluster`.

    Attributes:
        machines: the database machines, by name.
        rudder: connection of the role `rudder` through HAProxy.
        directory: where everything is, the logs of all programs too.
    """

    def __init__(self, directory: Path, *, synchronous: bool, free_port: Callable[[], int]) -> None:
        self.directory = directory
        self._account = server_account()
        self._programs = find_programs()
        numbers = _distinct(free_port, 4 * len(MEMBERS) + 1)
        self.rudder = ConnectionInfo(
            loopback.LOOPBACK, numbers.pop(), schema.ROLE, secrets.token_hex(8), schema.DATABASE
        )
        self._ports = {name: Ports(*(numbers.pop() for _ in range(4))) for name in MEMBERS}
        self._passwords = {
            f"change-me-{name}": secrets.token_hex(8) for name in ("api", "replicator", "rewind")
        }
        self._etcd = [self._make_etcd(name) for name in MEMBERS]
        self.machines = {name: self._make_machine(name, synchronous) for name in MEMBERS}
        self._haproxy = self._make_haproxy()

    @property
    def url(self) -> str:
        """URL of the three servers, without HAProxy and without the password."""
        hosts = ",".join(f"{loopback.LOOPBACK}:{one.port}" for one in self.machines.values())
        user, database = self.rudder.user, self.rudder.database
        options = "target_session_attrs=read-write&connect_timeout=2"
        return f"postgres://{user}@{hosts}/{database}?{options}"

    @property
    def programs(self) -> Programs:
        """The programs of the system that it consists of."""
        return self._programs

    def connection(self, machine: Machine) -> ConnectionInfo:
        """Return a connection of the role `rudder` to one machine."""
        return replace(self.rudder, port=machine.port)

    def _child(self, name: str, *command: str | Path, **environment: str) -> Child:
        return Child(name, command, self.directory, self._account, {**_ENVIRONMENT, **environment})

    def _make_etcd(self, name: str) -> Child:
        data = self.directory / f"etcd-{name}"
        environment = shipped.etcd_environment(name, self._ports, data)
        return self._child(f"etcd-{name}", self._programs.etcd, **environment)

    def _make_machine(self, name: str, synchronous: bool) -> Machine:
        home = self.directory / name
        home.mkdir(mode=0o700)
        self._give(home)
        data = home / "data"
        paths = {
            "/var/lib/postgresql/15/main": str(data),
            "/usr/lib/postgresql/15/bin": str(self._programs.postgres),
            "/var/lib/postgresql/patroni.pgpass": str(home / "pgpass"),
            "/var/run/postgresql": str(home),
            "/etc/ssl/certs/ssl-cert-snakeoil.pem": str(home / "server.crt"),
            "/etc/ssl/private/ssl-cert-snakeoil.key": str(home / "server.key"),
            **self._passwords,
        }
        certificate, key = _make_certificate()
        self._write(home / "server.crt", certificate)
        self._write(home / "server.key", key)
        configuration = home / "patroni.yml"
        text = shipped.patroni_file(name, self._ports, paths, synchronous=synchronous)
        self._write(configuration, text.encode())
        ports = self._ports[name]
        patroni = self._child(f"patroni-{name}", self._programs.patroni, configuration)
        return Machine(name, ports.postgres, ports.api, patroni, data)

    def _make_haproxy(self) -> Child:
        configuration = self.directory / "haproxy.cfg"
        text = shipped.haproxy_file(self._ports, self.rudder.port)
        self._write(configuration, text.encode())
        return self._child("haproxy", self._programs.haproxy, "-db", "-f", configuration)

    def _write(self, path: Path, content: bytes) -> None:
        path.touch(mode=0o600)
        path.write_bytes(content)
        self._give(path)

    def _give(self, path: Path) -> None:
        if self._account.credentials():
            os.chown(path, self._account.uid, self._account.gid)

    async def create(self) -> None:
        """Start everything, and create database, tables and role.

        Raises:
            StartError: something did not start; the text names its log.
        """
        for child in self._etcd:
            await child.start()
        for machine in self.machines.values():
            await machine.patroni.start()
        await self._haproxy.start()
        await self.healthy()
        try:
            await trio.to_thread.run_sync(self._create_database)
        except RuntimeError as error:
            raise StartError(f"the database cannot be created: {error}") from error

    def _create_database(self) -> None:
        self.psql(f"CREATE DATABASE {schema.DATABASE}", database="postgres")
        self.psql(schema.RUDDER_SCHEMA + schema.RUDDER_RIGHTS)
        self.psql(
            "\\getenv password RELAYD_PASSWORD\nALTER ROLE rudder PASSWORD :'password';",
            RELAYD_PASSWORD=self.rudder.password,
        )

    def crash(self) -> str | None:
        """Return which program ended by itself; None unless one that nothing kills did."""
        ended = next((child for child in (self._haproxy, *self._etcd) if child.pid is None), None)
        return None if ended is None else f"{ended.name} (see {ended.log})"

    async def close(self) -> None:
        """Kill everything."""
        for machine in self.machines.values():
            await machine.kill()
        for child in (self._haproxy, *self._etcd):
            child.signal(signal.SIGCONT)
            await child.kill()

    # What may happen to it.

    async def primary(self, after: Machine | None = None) -> Machine:
        """Return the primary, once there is one.

        Args:
            after: a machine that is not meant, because it was the primary before.

        Raises:
            StartError: there is none for long.
        """
        with trio.move_on_after(START_DEADLINE):
            while True:
                found = await trio.to_thread.run_sync(self.find_primary)
                if found is not None and found is not after:
                    return found
                await trio.sleep(_POLL)
        raise StartError(f"no primary within {START_DEADLINE:.0f} s (see {self.directory}/*.log)")

    def find_primary(self) -> Machine | None:
        """Return the machine whose Patroni says that it is the primary; None if none does."""
        for machine in self.machines.values():
            try:
                self._ask(machine, "/primary")
            except OSError:
                continue
            return machine
        return None

    async def healthy(self) -> None:
        """Return when there are a primary and two standbys that follow it.

        With synchronous replication, one of them is recorded as the standby that may be promoted.
        If none is for long, that is put right as an administrator would do.

        Raises:
            StartError: that takes too long; the text says what was missing last.
        """
        remedies = deque([self._restart_patroni, self._forget_standby])
        fault: str | None = None
        since: float | None = None
        with trio.move_on_after(START_DEADLINE):
            while (fault := await trio.to_thread.run_sync(self._fault)) is not None:
                now = trio.current_time()
                since = (since or now) if fault == _UNRECORDED else None
                if remedies and since is not None and now > since + _UNRECORDED_S:
                    await remedies.popleft()()
                    since = None
                await trio.sleep(_POLL)
            return
        where = f"see {self.directory}/*.log"
        raise StartError(f"not whole in {START_DEADLINE:.0f} s: {fault} ({where})")

    def _fault(self) -> str | None:
        """Return why the cluster is not whole; None if it is."""
        primary = self.find_primary()
        if primary is None:
            return "there is no primary"
        try:
            members = self._ask(primary, "/cluster")["members"]
            following = int(self.psql(_FOLLOWERS, database="postgres", machine=primary))
            wanted = self._ask(primary, "/config")["synchronous_mode"]
        except (OSError, KeyError, RuntimeError) as error:
            return f"{primary.name} does not answer: {error}"
        if following < len(MEMBERS) - 1:
            return f"{following} of {len(MEMBERS) - 1} standbys follow {primary.name}"
        recorded = any(member["role"] == "sync_standby" for member in members)
        return None if recorded >= wanted else _UNRECORDED

    async def _restart_patroni(self) -> None:
        """Restart Patroni on the primary, while its PostgreSQL goes on.

        Before version 3.1, it may have an outdated copy of etcd's keys, which it cannot change.
        """
        primary = await self.primary()
        await primary.patroni.kill()
        await primary.patroni.start()

    async def _forget_standby(self) -> None:
        """Switch synchronous replication off and on, which removes what is recorded of it.

        Before version 3.0.4, a primary that wakes up takes the leader's key back from its
        successor, whose name stays in the record, which only it might change.
        """
        await self.configure(synchronous_mode=False)
        await trio.sleep(_FORGOTTEN_AFTER_S)
        await self.configure(synchronous_mode=True)

    async def switch_over(self) -> None:
        """Let Patroni make a standby the primary, as planned, which loses nothing.

        Raises:
            StartError: Patroni refused.
        """
        primary = await self.primary()
        body = json.dumps({"leader": primary.name}).encode()
        try:
            await trio.to_thread.run_sync(
                partial(self._ask, primary, "/switchover", body, timeout=START_DEADLINE)
            )
        except OSError as error:
            raise StartError(f"Patroni did not switch over: {error}") from error

    async def configure(self, **settings: object) -> None:
        """Change the configuration that all members share, like `patronictl edit-config`."""
        body = json.dumps(settings).encode()
        primary = await self.primary()
        await trio.to_thread.run_sync(partial(self._ask, primary, "/config", body, method="PATCH"))

    def stop_etcd(self) -> None:
        """Suspend all members of etcd."""
        for child in self._etcd:
            child.signal(signal.SIGSTOP)

    def resume_etcd(self) -> None:
        """Resume all members of etcd."""
        for child in self._etcd:
            child.signal(signal.SIGCONT)

    def psql(
        self,
        sql: str,
        *,
        database: str = schema.DATABASE,
        machine: Machine | None = None,
        **environment: str,
    ) -> str:
        """Run SQL as the superuser on the primary, or on another machine.

        Args:
            sql: statements and psql commands.
            database: the database to run it in.
            machine: where to run it.
            environment: variables for psql to read, so that no argument contains a secret.

        Returns:
            The rows as CSV, without a header.

        Raises:
            RuntimeError: a statement failed, or there is no primary.
        """
        machine = machine or self.find_primary()
        if machine is None:
            raise RuntimeError("there is no primary")
        programs, home = self._programs.postgres, machine.data.parent
        return run_psql(
            programs, home, machine.port, database, sql, {**_ENVIRONMENT, **environment}
        )

    def _ask(
        self,
        machine: Machine,
        path: str,
        body: bytes | None = None,
        *,
        method: str | None = None,
        timeout: float = _ANSWER_TIMEOUT,
    ) -> Any:
        """Return what Patroni's REST API answers.

        Raises:
            OSError: it does not answer, or with an error.
        """
        request = urllib.request.Request(
            f"http://{loopback.LOOPBACK}:{machine.api}{path}", body, method=method
        )
        login = f"{_API_USER}:{self._passwords['change-me-api']}".encode()
        request.add_header("Authorization", f"Basic {base64.b64encode(login).decode()}")
        with _OPENER.open(request, timeout=timeout) as answer:
            text = answer.read()
        return json.loads(text) if text.startswith(b"{") else text


#: No proxy of the environment: everything is on this machine.
_OPENER: Final = urllib.request.build_opener(urllib.request.ProxyHandler({}))

_FOLLOWERS: Final = (
    "SELECT count(*) FROM pg_stat_replication"
    " WHERE state = 'streaming' AND application_name IN ('db1', 'db2', 'db3')"
)


def _distinct(free_port: Callable[[], int], count: int) -> list[int]:
    found: set[int] = set()
    while len(found) < count:
        found.add(free_port())
    return list(found)


def _make_certificate() -> tuple[bytes, bytes]:
    """Return a certificate and its key as PEM; PostgreSQL wants one to speak TLS."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "database")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=30))
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return certificate.public_bytes(Encoding.PEM), pem


@asynccontextmanager
async def open_cluster(
    *, synchronous: bool, free_port: Callable[[], int] = loopback.free_port
) -> AsyncIterator[Cluster]:
    """Run a cluster in a temporary directory until the block ends; then it is killed and removed.

    Args:
        synchronous: whether commits wait for a standby, strictly; else replication is asynchronous.
        free_port: returns TCP ports of 127.0.0.1 without a listener.

    Yields:
        The cluster, with Rudder's tables, a primary and two standbys.

    Raises:
        StartError: a program is not installed, or did not start; its log is kept.
    """
    # Not below the caller's directory: the path of a Unix socket must be short, and the account of
    # PostgreSQL must be able to enter all directories above.
    directory = Path(tempfile.mkdtemp(prefix="relayd-cluster-"))
    try:
        _open_to(server_account(), directory)
        cluster = await trio.to_thread.run_sync(
            partial(Cluster, directory, synchronous=synchronous, free_port=free_port)
        )
        try:
            await cluster.create()
            yield cluster
        finally:
            with trio.move_on_after(_CLEANUP_DEADLINE, shield=True):
                await cluster.close()
    except Exception:
        _remove_all_but_logs(directory)
        raise
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        raise
    shutil.rmtree(directory, ignore_errors=True)


def _remove_all_but_logs(directory: Path) -> None:
    for path in directory.iterdir():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif path.suffix != ".log":
            path.unlink()
    with suppress(OSError):
        directory.rmdir()


def _open_to(account: PostgresAccount, directory: Path) -> None:
    if account.credentials():
        os.chown(directory, account.uid, account.gid)
