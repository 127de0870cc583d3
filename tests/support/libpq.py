"""A PostgreSQL with TLS and every kind of login, and `psql`, libpq's own client, to compare to."""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from relayd.commands.demo.postgres.programs import server_account
from relayd.commands.demo.postgres.server import Server
from tests.support.pgbouncer import open_pgbouncer
from tests.support.ports import free_port
from tests.support.postgres import QUICK

PASSWORD: Final = "p@ss/:%?#"

_HBA: Final = """
local     all all                      trust
hostssl   all certified  127.0.0.1/32  cert
hostssl   all plain_only 127.0.0.1/32  reject
hostnossl all tls_only   127.0.0.1/32  reject
host      all trusted    127.0.0.1/32  trust
host      all clear      127.0.0.1/32  password
host      all old        127.0.0.1/32  md5
host      all all        127.0.0.1/32  scram-sha-256
"""
_ROLES: Final = f"""
SET password_encryption = 'md5';
CREATE ROLE old LOGIN PASSWORD '{PASSWORD}';
SET password_encryption = 'scram-sha-256';
CREATE ROLE clear LOGIN PASSWORD '{PASSWORD}';
CREATE ROLE plain_only LOGIN PASSWORD '{PASSWORD}';
CREATE ROLE tls_only LOGIN PASSWORD '{PASSWORD}';
CREATE ROLE trusted LOGIN;
CREATE ROLE certified LOGIN;
ALTER ROLE rudder PASSWORD '{PASSWORD}';
CREATE DATABASE "o d/d";
GRANT CONNECT ON DATABASE rudder TO PUBLIC;
"""


@dataclass(frozen=True, slots=True)
class Surface:
    """What URLs of a test can name.

    Attributes:
        places: for `{…}` in a URL or a variable: ports and paths.
        psql: libpq's client.
        version: the major release of libpq.
    """

    places: Mapping[str, str]
    psql: str
    version: int

    def fill(self, text: str) -> str:
        """Return a text with its places filled in."""
        for name, value in self.places.items():
            text = text.replace(f"{{{name}}}", value)
        return text

    def ask_psql(
        self, url: str, sql: str, environment: Mapping[str, str]
    ) -> tuple[str | None, str]:
        """Run one query; its answer, None if there is no connection, and what psql said."""
        done = subprocess.run(
            [self.psql, "-X", "-w", "-A", "-t", "-c", sql, url],
            capture_output=True,
            text=True,
            check=False,
            cwd="/",
            env={"PATH": os.defpath, "LC_ALL": "C", **environment},
        )
        return (done.stdout.strip() if done.returncode == 0 else None), done.stderr.strip()


@contextmanager
def open_surface() -> Iterator[Surface]:
    """Start the servers; they take a few seconds, so share them among the tests of a module."""
    psql = shutil.which("psql")
    if psql is None:
        pytest.skip("psql is not installed")
    version = subprocess.run([psql, "--version"], capture_output=True, text=True, check=True)
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="relayd-libpq-")))
        directory.chmod(0o755)
        files = write_files(directory / "tls")
        server = stack.enter_context(_server(directory / "server", files))
        frozen = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        pools = {
            mode: str(stack.enter_context(open_pgbouncer(server.rudder, mode)))
            for mode in ("session", "transaction")
        }
        places = {
            "port": str(server.rudder.port),
            "socket": str(server._need_home()),
            "files": str(files),
            "frozen": str(frozen.getsockname()[1]),
            "closed": str(free_port("127.0.0.1")),
            **pools,
        }
        yield Surface(places, psql, int(version.stdout.split()[2].partition(".")[0]))


@contextmanager
def _server(directory: Path, files: Path) -> Iterator[Server]:
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not programs:
        pytest.skip("postgresql, whose server has TLS, is not installed")
    directory.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RELAYD_POSTGRES_BIN", str(programs[-1]))
        server = Server(
            directory,
            extra={
                **QUICK,
                "ssl": "on",
                "ssl_cert_file": str(files / "server.crt"),
                "ssl_key_file": str(files / "server.key"),
                "ssl_ca_file": str(files / "ca.crt"),
            },
        )
    try:
        server.create()
        (server._need_home() / "data" / "pg_hba.conf").write_text(_HBA)
        server.psql(_ROLES + "SELECT pg_reload_conf();")
        server.rudder = type(server.rudder)(
            server.rudder.host, server.rudder.port, "rudder", PASSWORD, "rudder"
        )
        yield server
    finally:
        server.close()


def write_files(directory: Path) -> Path:
    """Write authorities, certificates, keys, home directories and password files."""
    directory.mkdir()
    authority, other = trustme.CA(), trustme.CA()
    server = authority.issue_cert("localhost", common_name="localhost")
    client = authority.issue_cert("client@example.com", common_name="certified")
    stranger = other.issue_cert("client@example.com", common_name="certified")
    revoked = authority.issue_cert("localhost", common_name="localhost")
    texts = {
        "ca.crt": authority.cert_pem.bytes(),
        "other.crt": other.cert_pem.bytes(),
        "server.crt": server.cert_chain_pems[0].bytes(),
        "server.key": server.private_key_pem.bytes(),
        "client.crt": client.cert_chain_pems[0].bytes(),
        "client.key": client.private_key_pem.bytes(),
        "stranger.crt": stranger.cert_chain_pems[0].bytes(),
        "stranger.key": stranger.private_key_pem.bytes(),
        "open.key": client.private_key_pem.bytes(),
        "wrong.key": revoked.private_key_pem.bytes(),
        "good.crl": _revocations(authority, revoked),
        "bad.crl": _revocations(authority, server),
        "broken": b"no certificate\n",
        "pgpass": f"# all\n*:*:*:nobody:x\n*:*:*:*:{_escaped(PASSWORD)}\n".encode(),
        "open.pgpass": f"*:*:*:*:{_escaped(PASSWORD)}\n".encode(),
        "services": b"[one]\nuser=trusted\ndbname=rudder\n[two]\nsslmode=what\n[three]\nwhat=1\n",
    }
    for name, text in texts.items():
        path = directory / name
        path.touch(mode=0o600 if path.suffix in {".key", ""} else 0o644)
        path.write_bytes(text)
        os.chown(path, server_account().uid if name.startswith("server") else os.geteuid(), -1)
    (directory / "open.key").chmod(0o644)
    (directory / "open.pgpass").chmod(0o644)
    _write_homes(directory)
    return directory


def _write_homes(directory: Path) -> None:
    home = directory / "home"
    (home / ".postgresql").mkdir(parents=True)
    for name, source in {
        "root.crt": "ca.crt",
        "postgresql.crt": "client.crt",
        "postgresql.key": "client.key",
    }.items():
        shutil.copy(directory / source, home / ".postgresql" / name)
        (home / ".postgresql" / name).chmod(0o600)
    shutil.copy(directory / "services", home / ".pg_service.conf")
    (directory / "empty").mkdir()
    (directory / "strange" / ".postgresql").mkdir(parents=True)
    shutil.copy(directory / "other.crt", directory / "strange" / ".postgresql" / "root.crt")
    # An error other than "there is no such file" for every account, root too.
    (directory / "loop").symlink_to("loop")


def _revocations(authority: trustme.CA, revoked: trustme.LeafCert) -> bytes:
    issuer = x509.load_pem_x509_certificate(authority.cert_pem.bytes())
    key = serialization.load_pem_private_key(authority.private_key_pem.bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    leaf = x509.load_pem_x509_certificate(revoked.cert_chain_pems[0].bytes())
    now = datetime.now(UTC)
    entry = x509.RevokedCertificateBuilder().serial_number(leaf.serial_number)
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.subject)
        .last_update(now - timedelta(days=1))
        .next_update(now + timedelta(days=30))
        .add_revoked_certificate(entry.revocation_date(now - timedelta(days=1)).build())
    )
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def _escaped(password: str) -> str:
    return password.replace("\\", "\\\\").replace(":", "\\:")
