"""An embedded PostgreSQL server: one data directory, at most one server process, no installation.

Synchronous, for callers without an event loop; `relayd.commands.demo.postgres.opening` is the same
for Trio. The server listens on 127.0.0.1, where passwords are checked (SCRAM), and on a Unix socket
in its own private directory, where the superuser needs none.
"""

import os
import re
import secrets
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Literal, Protocol, TypedDict
from urllib.parse import quote

from relayd.commands.demo.postgres import programs as pginstall
from relayd.commands.demo.postgres import schema
from relayd.commands.demo.postgres.psql import SUPERUSER, run_psql
from relayd.commands.demo.processes.children import kill_with_children, signal_with_children
from relayd.commands.demo.processes.ports import free_port
from relayd.errors import StartError

StopMode = Literal["fast", "immediate"]

_HOST: Final = "127.0.0.1"
#: What a server that starts or recovers answers to clients.
_TO_CLIENTS: Final = re.compile("the database system is (starting up|not yet|in recovery|shutting)")
_START_DEADLINE: Final = 60.0
_STOP_DEADLINE: Final = 20.0
_PORT_ATTEMPTS: Final = 5
# sun_path of unix(7) has 107 bytes; the socket's own name takes about 20 of them.
_LONGEST_HOME: Final = 80
_STOP_SIGNALS: Final = {"fast": signal.SIGINT, "immediate": signal.SIGQUIT}


class Keywords(TypedDict):
    """Keyword arguments of `asyncpg.connect` and of most other clients."""

    host: str
    port: int
    user: str
    password: str
    database: str


@dataclass(frozen=True, slots=True)
class ConnectionInfo:
    """ConnectionInfo parameters of one role and one database, over TCP.

    Attributes:
        host: address of the server.
        port: its TCP port.
        user: the role.
        password: its password, not shown by `repr`.
        database: name of the database.
    """

    host: str
    port: int
    user: str
    password: str = field(repr=False)
    database: str

    @property
    def url(self) -> str:
        """`postgres://user@host:port/database`, for `output.database.url`."""
        return f"postgres://{quote(self.user)}@{self.host}:{self.port}/{quote(self.database)}"

    @property
    def dsn(self) -> str:
        """The same URL with the password, percent-encoded."""
        login = f"{quote(self.user)}:{quote(self.password, safe='')}"
        return f"postgres://{login}@{self.host}:{self.port}/{quote(self.database)}"

    def keywords(self) -> Keywords:
        """Return the same as keyword arguments."""
        return Keywords(
            host=self.host,
            port=self.port,
            user=self.user,
            password=self.password,
            database=self.database,
        )


class Database(Protocol):
    """What the demo asks of its database: one server, or a cluster.

    Attributes:
        rudder: connection of the role `rudder`.
    """

    rudder: ConnectionInfo

    def psql(self, sql: str, /) -> str:
        """Run SQL as the superuser and return the rows as CSV."""

    def crash(self) -> str | None:
        """Return why a process that it needs ended by itself; None unless one did."""


class Server:
    """A PostgreSQL server with its own data directory.

    Owns its process and its data; `close` stops the process, and removes the data if they had to
    be put outside `directory`.

    Attributes:
        rudder: connection of the role `rudder` to the database `rudder`.
        superuser: connection of the superuser to the same database.
        log_file: the server's log; each start appends to it.
    """

    def __init__(
        self, directory: Path, *, port: int | None = None, extra: Mapping[str, str] | None = None
    ) -> None:
        """Prepare a server; nothing is written or started yet.

        Args:
            directory: where it may write; created if missing. The data are put elsewhere if the
                server's account cannot enter it or its path is too long for a Unix socket.
            port: TCP port; None: a free one, kept for all later starts.
            extra: settings of `postgresql.conf`, for example {"fsync": "off"}.

        Raises:
            StartError: no PostgreSQL is installed.
        """
        self._account = pginstall.server_account()
        self._programs = pginstall.server_programs(self._account)
        self._directory = directory.absolute()
        self._extra = {"timezone": "UTC", "log_timezone": "UTC", **(extra or {})}
        self._fixed_port = port is not None
        self._home: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._wanted = False
        self.log_file = self._directory / "postgres.log"
        port = free_port() if port is None else port
        # With characters that a URL must escape, so that code that forgets to fails at once.
        self.rudder = ConnectionInfo(
            _HOST, port, schema.ROLE, f"p@ss/{secrets.token_hex(8)}:%?#", schema.DATABASE
        )
        self.superuser = ConnectionInfo(
            _HOST, port, SUPERUSER, secrets.token_urlsafe(12), schema.DATABASE
        )

    @property
    def pid(self) -> int | None:
        """Process id of the server; None if it is not running."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def crash(self) -> str | None:
        """Return why it ended by itself; None unless it did."""
        return _cause(self._log()) if self._wanted and self.pid is None else None

    def create(self) -> None:
        """Create the data directory, start the server, create tables and roles.

        Raises:
            StartError: a step failed; the text says which one and why.
        """
        self._directory.mkdir(parents=True, exist_ok=True)
        self._home = self._make_home()
        self._initdb(self._home)
        self.start()
        try:
            self._create_database()
        except RuntimeError as error:
            raise StartError(f"the database cannot be created: {_cause(str(error))}") from error

    def _create_database(self) -> None:
        self.psql(f"CREATE DATABASE {schema.DATABASE}", database="postgres")
        self.psql(schema.RUDDER_SCHEMA + schema.RUDDER_RIGHTS)
        self.psql(
            "\\getenv password RELAYD_PASSWORD\nALTER ROLE rudder PASSWORD :'password';",
            RELAYD_PASSWORD=self.rudder.password,
        )

    def start(self) -> None:
        """Start the server on its data and wait until it accepts connections.

        Raises:
            StartError: it exited or was not ready within a minute.
        """
        for attempt in range(1, _PORT_ATTEMPTS + 1):
            try:
                self._launch()
            except StartError:
                # Another process may have taken the port meanwhile. Once clients know the port,
                # it must not change.
                if self._fixed_port or attempt == _PORT_ATTEMPTS:
                    raise
                self._use_port(free_port())
            else:
                self._fixed_port = self._wanted = True
                return

    def stop(self, mode: StopMode = "fast") -> None:
        """Stop the server and wait for its end; do nothing if it is not running.

        Args:
            mode: `fast` ends the sessions and writes a checkpoint, `immediate` exits at once,
                like a crash.
        """
        process = self._process
        self._wanted = False
        if process is None:
            return
        self.resume()
        if process.poll() is None:
            process.send_signal(_STOP_SIGNALS[mode])
        try:
            process.wait(_STOP_DEADLINE)
        except subprocess.TimeoutExpired:
            self.kill()
        self._process = None

    def kill(self) -> None:
        """Kill all processes of the server at once (SIGKILL) and wait until they are gone."""
        process = self._process
        self._wanted = False
        if process is None:
            return
        kill_with_children(process.pid, _STOP_DEADLINE)
        process.wait(_STOP_DEADLINE)
        self._process = None

    def suspend(self) -> None:
        """Suspend all its processes (SIGSTOP): connections are accepted, but never answered."""
        if (parent := self.pid) is not None:
            signal_with_children(parent, signal.SIGSTOP)

    def resume(self) -> None:
        """Resume suspended processes (SIGCONT)."""
        if (parent := self.pid) is not None:
            signal_with_children(parent, signal.SIGCONT)

    def close(self) -> None:
        """Stop the server; remove its data if they are outside its directory."""
        self.stop()
        if self._home is not None and self._directory not in self._home.parents:
            shutil.rmtree(self._home, ignore_errors=True)

    def psql(self, sql: str, *, database: str = schema.DATABASE, **environment: str) -> str:
        """Run SQL as the superuser with `psql`.

        Args:
            sql: statements and psql commands.
            database: the database to run it in.
            environment: variables for psql to read, so that no argument contains a secret.

        Returns:
            The rows as CSV, without a header.

        Raises:
            RuntimeError: a statement failed; the text is psql's.
        """
        home = self._need_home()
        port, variables = self.superuser.port, {**_ENVIRONMENT, **environment}
        return run_psql(self._programs, home, port, database, sql, variables)

    def _make_home(self) -> Path:
        """Return a private directory of the server's account for data and socket."""
        reachable = self._account.can_reach(self._directory)
        inside = reachable and len(os.fsencode(self._directory)) <= _LONGEST_HOME
        home = Path(tempfile.mkdtemp(prefix="postgres-", dir=self._directory if inside else None))
        if self._account.credentials():
            os.chown(home, self._account.uid, self._account.gid)
        return home

    def _initdb(self, home: Path) -> None:
        password_file = home / "superuser"
        password_file.touch(mode=0o600)
        password_file.write_text(self.superuser.password)
        os.chown(password_file, self._account.uid, self._account.gid)
        command: list[str | Path] = [
            self._programs / "initdb",
            *("-D", home / "data", "-U", SUPERUSER, "--pwfile", password_file, "--no-sync"),
            *("--auth-local=trust", "--auth-host=scram-sha-256", "-E", "UTF8", "--locale=C"),
        ]
        done = subprocess.run(
            command,
            text=True,
            capture_output=True,
            check=False,
            cwd=home,
            env=_ENVIRONMENT,
            start_new_session=True,
            **self._account.credentials(),
        )
        password_file.unlink()
        if done.returncode:
            raise StartError(f"initdb failed: {_cause(done.stderr)}")

    def _launch(self) -> None:
        home = self._need_home()
        options = {
            "listen_addresses": _HOST,
            "unix_socket_directories": str(home),
            "unix_socket_permissions": "0700",
            **self._extra,
        }
        settings = [part for key, value in options.items() for part in ("-c", f"{key}={value}")]
        command: list[str | Path] = [self._programs / "postgres", "-D", home / "data"]
        with self.log_file.open("ab") as log:
            # In its own session, so that Ctrl-C reaches only the demo, which stops it in order.
            self._process = subprocess.Popen(
                [*command, "-p", str(self.superuser.port), *settings],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=home,
                env=_ENVIRONMENT,
                start_new_session=True,
                **self._account.credentials(),
            )
        self._wait_until_ready(self._process)

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + _START_DEADLINE
        while not _accepts(self._need_home() / f".s.PGSQL.{self.superuser.port}"):
            if process.poll() is not None:
                self._process = None
                raise StartError(f"PostgreSQL did not start: {self._complaint()}")
            if time.monotonic() > deadline:
                self.kill()
                raise StartError(f"PostgreSQL was not ready after {_START_DEADLINE:.0f} s")
            time.sleep(0.02)

    def _complaint(self) -> str:
        return _cause(self._log())

    def _log(self) -> str:
        return self.log_file.read_text(errors="replace")

    def _use_port(self, port: int) -> None:
        self.rudder = replace(self.rudder, port=port)
        self.superuser = replace(self.superuser, port=port)

    def _need_home(self) -> Path:
        if self._home is None:
            raise RuntimeError("create() has not been called")
        return self._home


# Nothing is inherited: PGHOST, PGOPTIONS or a locale would change what the programs do.
_ENVIRONMENT: Final = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}


def _accepts(path: Path) -> bool:
    """Return whether the server at this Unix socket accepts the superuser.

    PostgreSQL's protocol 3.0 ("Message Formats"): a StartupMessage is answered by R when the
    server is ready and by E while it starts or recovers. X terminates the connection.
    """
    words = f"user\0{SUPERUSER}\0database\0postgres\0\0".encode()
    startup = struct.pack("!II", 8 + len(words), 196_608) + words
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(5)
        try:
            client.connect(os.fspath(path))
            client.sendall(startup + struct.pack("!cI", b"X", 4))
            return client.recv(1) == b"R"
        except OSError:
            return False


def _cause(text: str) -> str:
    """Return the first error, which is the cause of those that follow, or the last line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    causes = [
        line
        for line in lines
        if re.search("FATAL|PANIC|ERROR|error:", line) and not _TO_CLIENTS.search(line)
    ]
    return causes[0] if causes else (lines or ["no output"])[-1]
