"""Findings about relayd's own HTTPS server."""

import socket
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from relayd.commands.check.account import Account
from relayd.commands.check.checks import server
from relayd.commands.check.model import Finding, Site
from relayd.commands.check.surroundings import units
from relayd.config.main_conf import Listen
from tests.support.front_door import open_door, settings_of
from tests.support.ledger import fleet
from tests.support.ports import free_port
from tests.support.signing import make_key_and_cert
from tests.support.webserver import Web, write_web

ACCOUNT = Account("relayd", 64998, 64998, (), "rudder")


@pytest.fixture
def web(tmp_path: Path) -> Web:
    """Return what a front door needs."""
    return write_web(Web("door", tmp_path, free_port(), fleet()))


async def findings(web: Web, **changed: object) -> list[Finding]:
    """Return what is found about a front door, with these settings changed."""
    settings = settings_of(web, **changed)
    found = await server.check(Site(web.root, settings, "root", ACCOUNT, None))
    assert found is not None
    return found


async def codes(web: Web, **changed: object) -> list[str]:
    """Return the codes alone."""
    return [finding.code for finding in await findings(web, **changed)]


async def test_a_sound_front_door(web: Web) -> None:
    """Nothing is found before the start, while relayd runs, and without such a server."""
    assert await findings(web) == []
    async with open_door(web):
        assert await findings(web) == []
    (web.own / "front.cert").unlink()
    assert await findings(web, listen=()) == []


def empty(name: str) -> Callable[[Web], object]:
    """Return a fault: a file without content."""
    return lambda web: (web.own / name).write_text("")


@pytest.mark.parametrize(
    ("breaks", "code"),
    [
        (lambda web: (web.own / "front.cert").unlink(), "server.certificate"),
        (empty("front.priv"), "server.certificate"),
        (
            lambda web: (web.own / "front.priv").write_bytes(make_key_and_cert("x").key_pem),
            "server.certificate",
        ),
        (lambda web: (web.own / "front.priv").chmod(0o646), "server.writable"),
        (empty("known"), "server.accounts"),
        (lambda web: (web.own / "initial").unlink(), "server.accounts"),
        (empty("networks"), "server.networks"),
        (lambda web: (web.own / "policy-servers").unlink(), "server.networks"),
    ],
)
async def test_a_fault_of_a_file(web: Web, breaks: Callable[[Web], object], code: str) -> None:
    """Each has its finding, and no other."""
    breaks(web)
    assert await codes(web) == [code]


@pytest.mark.fault("F37")
async def test_no_fix_writes_into_a_file_of_the_system(web: Web) -> None:
    """Where a wrong path names a file of others, the fix is another path."""
    (found,) = await findings(web, passwords_file=Path("/etc/hostname"))
    assert (found.code, "htpasswd" in found.fix) == ("server.accounts", False)
    assert "set server.passwords_file to another path" in found.fix


async def test_networks_of_main_conf_suffice(web: Web) -> None:
    """Without the files of Rudder, networks in main.conf do."""
    for name in ("networks", "policy-servers"):
        (web.own / name).unlink()
    networks = settings_of(web, networks=("x",)).server.networks
    assert await codes(web, networks=networks, policy_servers=networks) == []


async def test_addresses(web: Web, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Another program's port, an address of another machine, and a port for root only."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        monkeypatch.setattr(server, "_ANSWER_S", 0.1)
        assert await codes(web, listen=(Listen(host="127.0.0.1", port=port),)) == ["server.taken"]
    elsewhere = (Listen(host="192.0.2.1", port=free_port()),)
    assert await codes(web, listen=elsewhere) == ["server.address"]
    low = (Listen(host="127.0.0.1", port=1),)
    first = tmp_path / "first"
    first.write_text("1024\n")
    monkeypatch.setattr(server, "_UNPRIVILEGED", first)
    assert await codes(web, listen=low) == ["server.privileged"]
    unit = tmp_path / "rudder-relayd.service"
    start = f"ExecStart={tmp_path}/rudder-relayd -c {tmp_path}"
    unit.write_text(f"[Service]\n{start}\nAmbientCapabilities=CAP_NET_BIND_SERVICE\n")
    monkeypatch.setattr(units, "DIRECTORIES", (tmp_path,))
    assert await codes(web, listen=low) == []
    unit.unlink()
    assert await codes(web, listen=low) == ["server.privileged"]
    (tmp_path / "rudder-relayd.socket").write_text("[Socket]\nListenStream=127.0.0.1:1\n")
    assert await codes(web, listen=low) == []


def test_settings_have_the_paths_that_are_checked(web: Web) -> None:
    """The permissions of the service user are asked for each file of the server."""
    from relayd.commands.check.service_user.access import questions

    settings = settings_of(web)
    asked = questions(web.root, settings)
    values = msgspec.structs.asdict(settings.server).values()
    files = {path for path in values if isinstance(path, Path)}
    files -= {settings.server.share_directory}
    assert files <= set(asked)
