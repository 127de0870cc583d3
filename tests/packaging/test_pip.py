"""The guide's way with pip, on a machine without Rudder: every command that it shows, in order."""

import os
import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.support.daemon import NOWHERE, Daemon, eventually, open_daemon
from tests.support.machine import open_machine
from tests.support.packages import Server
from tests.support.ports import free_port
from tests.support.project import DOCS
from tools.deb import install_units

#: Stand for what needs a running system, a database or a terminal. Units are enabled for real, and
#: tests/e2e/test_guide.py proves the database.
STUBS: Final = {
    "systemctl": """
        case "$*" in
            daemon-reload) ;;
            "restart "*) test -e "/usr/lib/systemd/system/$2.service" ;;
            *) /usr/bin/systemctl "$1" "$3" "$4" ;;
        esac
    """,
    "runuser": "",
    "htpasswd": '/usr/bin/htpasswd -b "$@" secret',
}
PATH: Final = "/usr/sbin:/usr/bin:/sbin:/bin"
NEEDED: Final = ("a2ensite", "apache2ctl", "curl", "htpasswd", "nginx", "openssl")
SHELL: Final = """
PATH=/stubs:/usr/local/sbin:/usr/local/bin:$PATH
make() { :; }
cd "$1"
eval "$2"
"""
#: Stores a file ($1) as the web server does, with the groups of its account.
UPLOAD: Final = """
cd /var/rudder/reports/incoming
setpriv --reuid=www-data --regid=www-data --init-groups sh -euc '
    echo rubbish > .davfs.tmp1; mv .davfs.tmp1 "$1"' sh "$1"
"""
#: What `relayd check` misses there: a database, a service manager, an agent.
MISSING: Final = ("Connection refused", "rudder-relayd-helper.sock", "/opt/rudder/bin/rudder")
TABLES: Final = re.compile(r"^(\[\S+\]\n)((?:.+\n)*)", re.MULTILINE)


def section(document: str, *headings: str) -> str:
    """Return the text below a heading, and below one in it."""
    text = (DOCS / document).read_text()
    for level, heading in enumerate(headings, 2):
        text = re.split(rf"^{'#' * level} {heading}\n", text, flags=re.MULTILINE)[1]
        text = re.split(rf"^#{{2,{level}}} ", text, flags=re.MULTILINE)[0]
    return text


def commands(text: str) -> str:
    """Return what all examples of a text run, as a script."""
    blocks = re.findall(r"^ *```console\n.*?^ *```$", text, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in textwrap.dedent(block).splitlines()[1:-1]]
    return "\n".join(re.sub(r"^[$#] ", "", line) for line in lines)


@pytest.fixture
def tree(source_tree: Path, tmp_path: Path) -> Path:
    """Return a source tree with what `make wheel` writes into it."""
    tree = tmp_path / "source"
    shutil.copytree(source_tree, tree)
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", "dist"]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, "."], cwd=tree, check=True)
    return tree


@pytest.fixture
def server(tree: Path, tmp_path: Path) -> Iterator[Server]:
    """Yield a machine with the source tree, on which nothing is installed."""
    if missing := [name for name in NEEDED if shutil.which(name, path=PATH) is None]:
        pytest.skip(f"not installed: {', '.join(missing)}")
    scratch = tmp_path / "machine"
    scratch.mkdir()
    with open_machine(scratch) as machine:
        machine.share(tree)
        stubs = machine.outside / "stubs"
        stubs.mkdir()
        for name, text in STUBS.items():
            (stubs / name).write_text(f"#!/bin/sh\n{text}\n")
            (stubs / name).chmod(0o755)
        yield Server(machine.outside, free_port(), NOWHERE, machine=machine)


@pytest.mark.fault("F50")
async def test_guide_with_pip_makes_a_root_server(server: Server, tree: Path) -> None:
    """On an empty machine, its commands lead to a daemon that takes what the web server stores."""
    run(server, tree, commands(section("guide.md", "Installation", "With pip")))
    units_are_those_of_the_package(server)
    setup = section("guide.md", "Root server")
    prepare, start, inquire = re.split(r"(systemctl enable .*)\n", commands(setup))
    # A small key is made sooner.
    prepare = prepare.replace("rsa:4096", "rsa:2048")
    run(server, tree, prepare + commands(section("webserver.md", "Apache")))
    nginx = section("webserver.md", "nginx")
    [certificate] = re.findall(r"`(install .*)`", nginx)
    run(server, tree, f"{certificate}\n{commands(nginx)}")
    follow_the_examples(server, setup)
    run(server, tree, start)
    link = server.root / "etc/systemd/system/rudder-relayd.service"
    assert link.readlink() == Path("/etc/systemd/system/relayd.service")
    async with running(server) as daemon:
        name = "2026-03-01T10:00:00+00:00@root.log"
        server.shell(UPLOAD, name)
        await eventually((server.failed / name).exists)
        inquire = inquire.replace("check\n", "check || true\n")
        found = run(server, tree, inquire.replace("3030", str(server.port)))
        assert await daemon.stop() == 0
    errors = [line for line in found.splitlines() if line.startswith("error: ")]
    assert [line for line in errors if not any(part in line for part in MISSING)] == []
    assert '"configuration"' in found
    removal = section("guide.md", "Switching from rudder-relayd, and back", "Removal")
    run(server, tree, commands(removal))
    assert server.shell("ls /opt /usr/local/bin /etc/systemd/system | grep relayd || true") == ""


def run(server: Server, tree: Path, script: str) -> str:
    """Run commands of the documents as root in the source tree; return their output."""
    assert server.machine is not None
    settings = [f"{key}={value}" for key, value in os.environ.items() if key.startswith("PIP_")]
    settings += ["PIP_NO_COMPILE=1", "PIP_ROOT_USER_ACTION=ignore"]
    arguments = ["sh", str(tree), script]
    return server.machine.run("env", *settings, "sh", "-euc", SHELL, *arguments).stdout


def units_are_those_of_the_package(server: Server) -> None:
    """The units differ from the package's in the path of the programs only, and are valid."""
    assert server.machine is not None
    package = server.root / "package"
    install_units(package)
    for unit in (package / "usr/lib/systemd/system").iterdir():
        installed = (server.root / "etc/systemd/system" / unit.name).read_text()
        assert installed.replace("/opt/relayd/bin/", "/usr/bin/") == unit.read_text()
        assert installed != unit.read_text() or unit.suffix == ".socket"
    names = ("relayd.service", "rudder-relayd-helper.socket", "rudder-relayd-helper@1.service")
    assert server.machine.run("systemd-analyze", "verify", "--man=no", *names).stdout == ""


def follow_the_examples(server: Server, setup: str) -> None:
    """Edit main.conf as shown, on another port, and write what the web application does."""
    path = server.root / "opt/rudder/etc/relayd/main.conf"
    example = re.findall(r"```toml\n(.*?)```", setup, re.DOTALL)[0]
    listen = f'[general]\nlisten = "127.0.0.1:{server.port}"\n\n'
    for table, keys in TABLES.findall(listen + textwrap.dedent(example)):
        before, found, after = path.read_text().partition(table)
        path.write_text(before + found + keys + after)
    for name, text in {"relay/nodeslist.json": "{}", "ssl/shared/allnodescerts.pem": ""}.items():
        target = server.root / "var/rudder/lib" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)


@asynccontextmanager
async def running(server: Server) -> AsyncIterator[Daemon]:
    """Yield the daemon, as its unit starts it."""
    unit = (server.root / "etc/systemd/system/relayd.service").read_text()
    keys = dict(re.findall(r"^(ExecStart|User|Group)=(.*)$", unit, re.MULTILINE))
    assert server.machine is not None
    wrapper = server.machine.wrapper(f"{keys['User']}:{keys['Group']}")
    async with open_daemon(
        server, wrapper=wrapper, python=(), program=[keys["ExecStart"]]
    ) as daemon:
        yield daemon
