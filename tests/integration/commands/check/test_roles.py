"""No error where nothing is wrong: servers of each role, without what their role does not need."""

import os
from collections.abc import Iterator

import pytest

from relayd.commands.check.surroundings import units
from tests.support.checked import Checked, check, open_site
from tests.support.daemon import NOWHERE, Site
from tests.support.misconfigured import rewrite
from tests.support.project import ROOT

#: Keys of main.conf for a relay; its upstream refuses connections, which is its only error.
RELAY = {
    "general": 'node_id = "relay"\nhttps_port = 1',
    "processing.reporting": 'output = "upstream"',
    "processing.inventory": 'output = "upstream"',
    "output.upstream": 'host = "127.0.0.1"\npassword = "x"',
}
#: A root server of which another program stores the run logs.
SILENT_ROOT = {
    "processing.reporting": 'output = "disabled"',
    "output.upstream": 'host = "127.0.0.1"',
    "general": "https_port = 1",
}


@pytest.fixture
def server() -> Iterator[Site]:
    """A server whose files are sound, whatever its role becomes."""
    with open_site(NOWHERE) as site:
        yield site


def configure(site: Site, tables: dict[str, str]) -> None:
    """Writes main.conf with these keys."""
    for table, lines in tables.items():
        site.extra[table] = "\n".join(filter(None, [site.extra.get(table), lines]))
    if "output.upstream" in tables:
        pin = site.root / "upstream.pem"
        pin.write_bytes(site.nodes["root"].cert_pem)
        pin.chmod(0o644)
        site.extra["output.upstream"] += f'\nserver_certificate_file = "{pin}"'
    rewrite(site)


def errors(done: Checked) -> list[str]:
    """Errors that are not about the unreachable upstream or database."""
    expected = ("error: https://127.0.0.1:1:", "error: 127.0.0.1:1/rudder:")
    return [
        line for line in done.findings if line.startswith("error") and not line.startswith(expected)
    ]


@pytest.mark.fault("F36")
@pytest.mark.parametrize("missing", [(), ("nodeslist.json",), ("allnodescerts.pem",)])
def test_a_relay_needs_no_nodes_to_forward(server: Site, missing: tuple[str, ...]) -> None:
    """A relay forwards without nodes list and certificates; that agents cannot be reached warns."""
    configure(server, RELAY)
    for name in missing:
        (server.root / name).unlink()
    done = check(server)
    assert errors(done) == []
    lines = [line for line in done.findings if "nodeslist.json" in line]
    assert any("remote runs and shared files reach no node" in line for line in lines) == (
        missing == ("nodeslist.json",)
    )


@pytest.mark.fault("F36")
def test_a_relay_without_remote_runs_needs_no_certificates_of_sub_relays(server: Site) -> None:
    """Certificates of sub-relays serve remote runs only, and so does the nodes list."""
    configure(server, {**RELAY, "remote_run": "enabled = false"})
    server.write_nodes(["node1"])
    server.certificates.write_bytes(server.nodes["root"].cert_pem)
    assert errors(check(server)) == []
    server.nodes_list.unlink()
    assert [line for line in check(server).findings if "nodeslist" in line] == []


@pytest.mark.fault("F36")
def test_a_root_server_asks_no_upstream(server: Site) -> None:
    """A root server that sends nothing upstream is not checked for its way there."""
    configure(server, SILENT_ROOT)
    server.nodes_list.unlink()
    done = check(server)
    assert errors(done) == []
    assert not [line for line in done.findings if "https://" in line]


@pytest.mark.fault("F36")
def test_a_directory_that_systemd_makes_may_be_missing(
    server: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The directory of a Unix socket exists only while the unit runs, if the unit makes it."""
    configure(server, {"general": 'listen = "unix:/run/rudder-relayd/api.sock"'})
    monkeypatch.setattr(units, "DIRECTORIES", (server.root,))
    about = [line for line in check(server).findings if "may not create it in /run" in line]
    assert len(about) == (os.geteuid() == 0)
    monkeypatch.setattr(units, "DIRECTORIES", (ROOT / "systemd",))
    assert not [line for line in check(server).findings if "/run/rudder-relayd:" in line]


@pytest.mark.fault("F36")
def test_a_broken_list_is_an_error_on_every_role(server: Site) -> None:
    """A list that exists and cannot be read fails each reload, so it is an error of a relay too."""
    configure(server, RELAY)
    server.nodes_list.write_text("{")
    (line,) = errors(check(server))
    assert "; a reload fails. Fix: " in line
