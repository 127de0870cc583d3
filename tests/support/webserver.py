"""A real Apache httpd or nginx with the shipped configuration."""

import os
import re
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

import pytest
import trio
import trio.abc

from tests.support.curl import NODE, POLICY_SERVER, USER, Requests
from tests.support.daemon import PATIENCE_S, Site, merge
from tests.support.front_door import open_door, server_table, write_door
from tests.support.ports import free_port
from tests.support.project import CONF
from tests.support.signing import SigningNode, make_key_and_cert

#: "rudder" is an Apache that publishes what Rudder's own configuration does, "door" is relayd's own
#: server.
Kind = Literal["apache", "nginx", "rudder", "door"]

_APACHE: Final = CONF / "apache" / "rudder-relayd.conf"
PASSWORD: Final = "known:p@ss"
INITIAL_PASSWORD: Final = "initial"

#: Group of the web server's own account, `nobody`.
GROUP: Final = 65534

_PROGRAMS: Final[dict[Kind, tuple[str, ...]]] = {
    "apache": ("apache2", "httpd"),
    "nginx": ("nginx",),
    "rudder": ("apache2", "httpd"),
    "door": ("curl",),
}
#: Modules that distributions load, besides those that the shipped file asks for.
_MODULES: Final = ("mpm_event", "deflate", "filter", "mime", "socache_shmcb")
_SPOOL: Final = (
    *("reports", "reports/incoming", "reports/failed"),
    *("inventories", "inventories/incoming", "inventories/accepted-nodes-updates"),
)
_MODULE_DIRECTORIES: Final = (
    Path("/usr/lib/apache2/modules"),
    Path("/usr/lib64/httpd/modules"),
    Path("/usr/lib/httpd/modules"),
)


def find_program(kind: Kind) -> str:
    """Return the web server's program; skips the test where it is not installed."""
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"])
    for name in _PROGRAMS[kind]:
        if found := shutil.which(name, path=path):
            return found
    pytest.skip(f"{' or '.join(_PROGRAMS[kind])} is not installed")


@dataclass
class Web(Requests):
    """A web server in front of one relayd.

    Attributes:
        kind: which one.
        root: everything lies below it; its own files in `web`, the spool as in `Site`. Its own
            account must reach it.
        api: port of relayd's API on 127.0.0.1, or its Unix socket.
        nodes: whose certificates it knows.
        certificate: its own.
        host: its address.
        port: its HTTPS port there.
        password: of USER, for everything but inventories of new nodes.
        initial_password: for these.
        relayd: whether a whole relayd is this server, which the test starts.
    """

    kind: Kind
    root: Path
    api: int | Path
    nodes: Mapping[str, SigningNode]
    certificate: SigningNode = field(default_factory=lambda: make_key_and_cert("front"))
    host: str = "127.0.0.1"
    port: int = field(default_factory=free_port)
    password: str = PASSWORD
    initial_password: str = INITIAL_PASSWORD
    relayd: bool = False

    @property
    def own(self) -> Path:
        """The directory of its configuration, log and keys."""
        return self.root / "web"

    @property
    def incoming(self) -> Path:
        """Where run logs arrive."""
        return self.root / "reports" / "incoming"

    def spool(self) -> list[str]:
        """Every file of the spool, temporary ones too, by its path below `root`."""
        paths = (
            path for top in ("reports", "inventories") for path in (self.root / top).rglob("*")
        )
        return sorted(str(path.relative_to(self.root)) for path in paths if path.is_file())

    def waiting(self) -> list[str]:
        """Names in the run logs' directory, temporary ones too."""
        return sorted(path.name for path in self.incoming.iterdir())

    def log(self) -> str:
        """Its error log."""
        with suppress(FileNotFoundError):
            return (self.own / "error.log").read_text(errors="replace")
        return ""


def write_web(web: Web, site: Site | None = None) -> Web:
    """Write everything that a web server reads at its start, and makes its spool; return it.

    Args:
        web: the web server.
        site: of the relayd behind it, which may be the server itself.
    """
    web.own.mkdir()
    for directory in _SPOOL:
        (web.root / directory).mkdir(parents=True, exist_ok=True)
        (web.root / directory).chmod(0o777)
    cert, key = web.certificate.write(web.own)
    cert.rename(web.own / "front.cert")
    key.rename(web.own / "front.priv")
    (web.own / "nodes.pem").write_bytes(b"".join(node.cert_pem for node in web.nodes.values()))
    for name, password in (("known", web.password), ("initial", web.initial_password)):
        (web.own / name).write_text(f"{USER}:{_hash(password)}\n")
    _WRITERS[web.kind](web)
    if web.kind == "door" and site is not None:
        web.relayd = True
        site.extra["server"] = merge(server_table(web), site.extra.get("server", ""))
        site.extra.setdefault("processing.inventory", f'directory = "{web.root}/inventories"')
        site.write_conf()
    return web


def _hash(password: str) -> str:
    command = ["openssl", "passwd", "-apr1", "-stdin"]
    return subprocess.run(
        command, input=password, text=True, capture_output=True, check=True
    ).stdout.strip()


def _write_apache(web: Web) -> None:
    """Return a minimal server around the shipped virtual host, in place of a distribution's."""
    own = web.own
    (own / "networks").write_text(f"Require ip {NODE}\nRequire ip {POLICY_SERVER}\n")
    (own / "policy-servers").write_text(f"Require ip {POLICY_SERVER}\n")
    tcp = f"http://127.0.0.1:{web.api}"
    defines = {
        "PORT": web.port,
        "CERTIFICATE": own / "front.cert",
        "KEY": own / "front.priv",
        "NODES": own / "nodes.pem",
        "REPORTS": web.root / "reports",
        "INVENTORIES": web.root / "inventories",
        "PASSWORDS": own / "known",
        "INITIAL_PASSWORDS": own / "initial",
        "NETWORKS": own / "networks",
        "POLICY_SERVERS": own / "policy-servers",
        "API": tcp if isinstance(web.api, int) else f"unix:{web.api}|http://localhost",
    }
    wanted = re.search(r"# Modules: ([a-z_#\s]+)\.", _APACHE.read_text())
    assert wanted is not None
    names = sorted({*_MODULES, *wanted[1].replace("#", "").split()})
    modules = next((path for path in _MODULE_DIRECTORIES if path.is_dir()), Path("modules"))
    (own / "locks").mkdir()
    (own / "locks").chmod(0o777)
    lines = [
        f'ServerRoot "{own}"',
        "ServerName front.test",
        f'PidFile "{own}/apache.pid"',
        f'DefaultRuntimeDir "{own}"',
        f'ErrorLog "{own}/error.log"',
        *(f'LoadModule {name}_module "{modules}/mod_{name}.so"' for name in names),
        "User nobody",
        f"Group #{GROUP}",
        "StartServers 1",
        "TypesConfig /dev/null",
        # As Debian and Red Hat have them.
        f'DavLockDB "{own}/locks/DavLock"',
        "AddOutputFilterByType DEFLATE text/html text/plain application/json",
        '<Directory "/">\nAllowOverride None\nRequire all denied\n</Directory>',
        f"Listen {web.host}:{web.port}",
        *(f'Define RELAYD_{name} "{value}"' for name, value in defines.items()),
        f'Include "{_APACHE}"',
    ]
    (own / "apache.conf").write_text("\n".join(lines) + "\n")


def _write_nginx(web: Web) -> None:
    """Return the shipped server with its paths replaced, in a minimal main file."""
    own = web.own
    (own / "networks.conf").write_text(f"allow {NODE};\nallow {POLICY_SERVER};\n")
    (own / "policy-servers.conf").write_text(f"allow {POLICY_SERVER};\n")
    api = f"http://127.0.0.1:{web.api}" if isinstance(web.api, int) else f"http://unix:{web.api}"
    text = (CONF / "nginx" / "rudder-relayd.conf").read_text()
    for shipped, here in (
        ("    listen [::]:443 ssl;\n", ""),
        ("listen 443 ssl;", f"listen {web.host}:{web.port} ssl;"),
        ("/opt/rudder/etc/ssl/agent.cert", f"{own}/front.cert"),
        ("/var/rudder/cfengine-community/ppkeys/localhost.priv", f"{own}/front.priv"),
        ("/var/rudder/lib/ssl/shared/allnodescerts.pem", f"{own}/nodes.pem"),
        ("/opt/rudder/etc/htpasswd-webdav-initial", f"{own}/initial"),
        ("/opt/rudder/etc/htpasswd-webdav", f"{own}/known"),
        ("/etc/nginx/rudder-relayd/", f"{own}/"),
        ("/var/rudder/", f"{web.root}/"),
        ("http://127.0.0.1:3030", api),
    ):
        assert shipped in text, shipped
        text = text.replace(shipped, here)
    (own / "relayd.conf").write_text(text)
    (own / "temporary").mkdir()
    (own / "temporary").chmod(0o777)
    temporary = "".join(
        f"{name}_temp_path {own}/temporary/{name};\n"
        for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (own / "nginx.conf").write_text(
        "user nobody nogroup;\n" * (os.geteuid() == 0) + "worker_processes 1;\ndaemon off;\n"
        f"pid {own}/nginx.pid;\nerror_log {own}/error.log info;\nevents {{}}\n"
        f"http {{\naccess_log off;\n{temporary}include {own}/relayd.conf;\n}}\n"
    )


def _write_rudder(web: Web) -> None:
    """Write a server with the rules of Rudder's own configuration, in other words than its own."""
    _write_apache(web)
    own = web.own
    places = (
        ("reports", "reports/incoming", "known"),
        ("inventories", "inventories/incoming", "initial"),
        ("inventory-updates", "inventories/accepted-nodes-updates", "known"),
    )
    uploads = "".join(
        f"""
        Alias "/{path}" "{web.root}/{directory}"
        <Directory "{web.root}/{directory}">
          DAV on
          AuthName "WebDAV Storage"
          AuthType Basic
          AuthUserFile "{own}/{password}"
          <LimitExcept PUT>
            Require all denied
          </LimitExcept>
          <Limit PUT>
            <RequireAll>
              <RequireAny>
                Include "{own}/networks"
              </RequireAny>
              <RequireAny>
                Require valid-user
                Require ssl-verify-client
              </RequireAny>
            </RequireAll>
          </Limit>
        </Directory>"""
        for path, directory, password in places
    )
    host = f"""
    <VirtualHost *:{web.port}>
      SSLEngine on
      SSLProtocol -all +TLSv1.3
      SSLCertificateFile "{own}/front.cert"
      SSLCertificateKeyFile "{own}/front.priv"
      SSLCACertificateFile "{own}/nodes.pem"
      SSLCADNRequestFile "{own}/front.cert"
      SSLVerifyClient optional_no_ca
      {uploads}
      ProxyPass "/rudder/relay-api/" "http://127.0.0.1:{web.api}/rudder/relay-api/1/" retry=0
      <Location "/rudder/relay-api/">
        Require all denied
      </Location>
      <Location "/rudder/relay-api/remote-run/">
        <RequireAny>
          Include "{own}/policy-servers"
        </RequireAny>
      </Location>
      <Location "/rudder/relay-api/shared-folder/">
        <RequireAll>
          Require ssl-verify-client
          <RequireAny>
            Include "{own}/networks"
          </RequireAny>
        </RequireAll>
      </Location>
      <Location "/rudder/relay-api/shared-files/">
        <RequireAny>
          Include "{own}/networks"
        </RequireAny>
      </Location>
    </VirtualHost>
    """
    file = own / "apache.conf"
    file.write_text(file.read_text().replace(f'Include "{_APACHE}"', host))


_WRITERS: Final = {
    "apache": _write_apache,
    "nginx": _write_nginx,
    "rudder": _write_rudder,
    "door": write_door,
}


def command(web: Web, *options: str) -> list[str]:
    """Return the command line of the web server on its configuration."""
    program = find_program(web.kind)
    if web.kind != "nginx":
        return [program, "-f", str(web.own / "apache.conf"), *options]
    return [program, "-p", str(web.own), "-c", str(web.own / "nginx.conf"), *options]


@asynccontextmanager
async def open_web(web: Web) -> AsyncIterator[None]:
    """Run the web server until the block ends, unless it is relayd, which the test starts."""
    if web.relayd:
        yield
        return
    async with open_alone(web):
        yield


@asynccontextmanager
async def open_alone(web: Web) -> AsyncIterator[None]:
    """Run the web server until the block ends, without relayd; yields when it accepts clients."""
    if web.kind == "door":
        async with open_door(web):
            yield
        return
    options = () if web.kind == "nginx" else ("-DFOREGROUND",)
    with (web.own / "stderr").open("wb") as output:
        process = await trio.lowlevel.open_process(
            command(web, *options),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        await _wait_listening(web, process)
        yield
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        with trio.move_on_after(PATIENCE_S, shield=True):
            await process.wait()
            # Its workers are not our children: when they are gone, so is their socket.
            while await _is_listening(web):
                await trio.sleep(0.01)


async def _is_listening(web: Web) -> bool:
    try:
        stream = await trio.open_tcp_stream(web.host, web.port)
    except OSError:
        return False
    await stream.aclose()
    return True


async def _wait_listening(web: Web, process: trio.Process) -> None:
    with trio.fail_after(PATIENCE_S):
        while not await _is_listening(web):
            assert process.poll() is None, (web.own / "stderr").read_text() + web.log()
            await trio.sleep(0.01)


def check_syntax(web: Web) -> str:
    """Return what the web server says about its configuration; fails the test if it refuses it."""
    done = subprocess.run(command(web, "-t"), capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert not re.search(r"warn", said, re.IGNORECASE), said
    return said
