"""Each fault of a root server is reported in one line, with its fix."""

import os
import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Final

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

from relayd.commands.check.checks import openssl
from relayd.commands.check.surroundings import units
from relayd.commands.demo.postgres.server import Server
from relayd.fleet.finding import find_nodes
from relayd.pipelines.pausing import PauseFile, begin_pause
from relayd.spool.layout import run_log_spool
from relayd.spool.operations.choose import Choice
from relayd.spool.operations.queue import Queue
from tests.support import postgres
from tests.support.checked import check, open_site, service_user
from tests.support.daemon import Site
from tests.support.misconfigured import (
    Break,
    Case,
    about_site,
    both,
    case,
    conf,
    mode,
    nodes,
    parameters,
    path,
    rewrite,
    unlink,
    verify,
    write,
)
from tests.support.signing import SigningNode, make_key_and_cert

REGENERATE: Final = "Fix: regenerate the policies, so that the server writes it again"
RENEW: Final = "Fix: renew it on the node, then send an inventory and regenerate the policies"
NOW: Final = datetime.now(UTC)


@pytest.fixture(scope="module")
def shared_database(postgres_server: Server) -> Iterator[postgres.Database]:
    """One database for all these tests, which do not change it."""
    with postgres.fresh_database(postgres_server) as database:
        yield database


@pytest.fixture
def site(shared_database: postgres.Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A sound root server, without units of systemd."""
    monkeypatch.setattr(units, "DIRECTORIES", ())
    with open_site(shared_database.rudder) as site:
        yield site


def certify(*certificates: SigningNode) -> Break:
    """Writes the certificates file with these, after that of root."""

    def apply(site: Site, _database: postgres.Database) -> None:
        pems = [site.nodes["root"].cert_pem, *(node.cert_pem for node in certificates)]
        site.certificates.write_bytes(b"".join(pems))

    return apply


def node1(**changes: datetime | int) -> SigningNode:
    """A certificate of node1."""
    return make_key_and_cert("node1", **changes)  # type: ignore[arg-type]


def nameless() -> SigningNode:
    """A certificate that names no node."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "somebody")])
    return make_key_and_cert("nameless", subject=subject)


def spool_file(age: float = 0.0, bits: int = 0o640) -> Break:
    """Puts a file of some age and mode into the spool."""

    def apply(site: Site, _database: postgres.Database) -> None:
        file = site.incoming / site.name("node1")
        file.write_bytes(b"")
        file.chmod(bits)
        os.utime(file, (time.time() - age,) * 2)

    return apply


def occupied(site: Site, database: postgres.Database) -> None:
    """Configures the port of another program, PostgreSQL, for the HTTP API."""
    site.port = database.rudder.port
    rewrite(site)


def operated(site: Site, _database: postgres.Database) -> None:
    """Pauses run logs, holds one and the node that it is of."""
    begin_pause(PauseFile(site.root), ["reporting"], "ann", 600.0, time.time())
    spool_file()(site, _database)
    queue = Queue([run_log_spool(site.root / "reports")], {}, lambda _node: "", find_nodes)
    assert queue.hold(Choice(nodes=("node1",)), "bob").files == 1


def replace_with_file(directory: Path) -> None:
    """Puts a file in place of a directory."""
    directory.rmdir()
    directory.write_text("")


def replace_with_directory(file: Path) -> None:
    """Puts a directory in place of a file."""
    file.unlink()
    file.mkdir()


def cut(file: Path) -> None:
    """Removes the end of a file."""
    data = file.read_bytes()
    file.write_bytes(data[: len(data) - 40])


REST: Final = (
    "skipped: {conf}: nothing else can be checked until relayd can start."
    " Fix: fix the errors, then check again"
)

CONFIGURATION: Final = [
    case(
        "no main.conf",
        unlink("etc/main.conf"),
        "error: {conf}/main.conf: cannot be read: No such file or directory."
        " Fix: write it (man relayd.conf describes every key), or name its directory with -c",
        REST,
    ),
    case(
        "main.conf is no TOML",
        write("etc/main.conf", '[general]\nlisten = "127.0.0.1:3030\n'),
        "~error: {conf}/main.conf: line 2, column \\d+: .*\\. Fix: correct line 2:"
        " close what is opened there, a quote or a bracket",
        REST,
    ),
    case(
        "wrong value",
        conf(general="https_port = 0"),
        "error: {conf}/main.conf: general.https_port: expected an integer from 1 to 65535, got 0."
        " Fix: set general.https_port to an integer from 1 to 65535",
        REST,
    ),
    case(
        "relay without upstream",
        conf(general='node_id = "relay1"'),
        "error: {conf}/main.conf: output.upstream.host: expected a value on every node but root,"
        " got nothing. Fix: set output.upstream.host",
        REST,
    ),
    case(
        "no node id",
        path(
            lambda file: file.write_text(
                file.read_text().replace('node_id = "root"', 'node_id_file = "/nowhere/uuid"')
            ),
            "etc/main.conf",
        ),
        "error: {conf}/main.conf: Could not read the node id from /nowhere/uuid"
        " (general.node_id_file, as general.node_id is not set): No such file or directory."
        " Fix: set general.node_id, or write the node id into general.node_id_file",
        REST,
    ),
    case(
        "unknown key",
        conf(general='lisen = "a:1"'),
        "warning: {conf}/main.conf: unknown key general.lisen."
        " Fix: spell it general.listen, or remove it",
        faults=("G6",),
    ),
    case(
        "passwords are open",
        mode(0o644, "etc/main.conf"),
        "warning: {conf}/main.conf: mode 0644 exposes the passwords, expected 0640."
        " Fix: chmod 0640 {conf}/main.conf",
        faults=("G7",),
    ),
    case(
        "peers are not verified",
        conf(general='peer_authentication = "dangerous_none"'),
        "warning: {conf}/main.conf: Certificate verification is disabled."
        ' Fix: set general.peer_authentication to "cert_pinning"',
    ),
    case(
        "option of the URL is not used",
        lambda site, _: conf(output__database=f'url = "{site.database.url}?sslcompression=0"')(
            site, _
        ),
        "warning: {conf}/main.conf: output.database.url: option sslcompression is not used."
        " Fix: remove it from the URL",
    ),
    case(
        "logging.conf is wrong",
        write("etc/logging.conf", 'general.level = "loud"'),
        '~error: {conf}/logging.conf: general.level: expected .*, got "loud"\\.'
        " Fix: set general.level to .*",
    ),
    case(
        "no logging.conf",
        unlink("etc/logging.conf"),
        "warning: {conf}/logging.conf: No such file or directory, default logging is used."
        " Fix: write it (man relayd.conf describes every key)",
    ),
    case(
        "run logs go nowhere",
        conf(processing__reporting='output = "disabled"'),
        "warning: {conf}/main.conf: processing.reporting.output is disabled; run logs stay in the"
        ' spool. Fix: set it to "database" on the root server, to "upstream" on a relay',
    ),
    case(
        "nobody above",
        conf(processing__inventory='output = "upstream"', output__upstream='password = "p"'),
        'error: {conf}/main.conf: an output is "upstream", but output.upstream.host is not set.'
        ' Fix: set output.upstream.host, or the output to "database" or "disabled"',
    ),
]

LISTEN: Final = [
    case(
        "another program has the port",
        occupied,
        "error: general.listen 127.0.0.1:{port}: another program listens there."
        " Fix: stop it (ss -ltnp sport = :{port} names it), or use another port",
    ),
    case(
        "address of another machine",
        conf(general='listen = "192.0.2.1:3030"'),
        "error: general.listen 192.0.2.1:3030: this machine has no address 192.0.2.1."
        ' Fix: set it to "127.0.0.1:3030"',
    ),
    case(
        "name without address",
        conf(general='listen = "nowhere.invalid:3030"'),
        "~error: general.listen nowhere\\.invalid:3030: nowhere\\.invalid cannot be resolved"
        ': .*\\. Fix: set it to "127\\.0\\.0\\.1:3030"',
    ),
    case(
        "open to the network",
        conf(general='listen = "0.0.0.0:{port}"'),
        "warning: general.listen 0.0.0.0:{port}: other machines can reach the HTTP API, which has"
        ' no authentication. Fix: set it to "127.0.0.1:3030", behind the web server',
    ),
    case(
        "socket cannot be made",
        both(
            path(Path.mkdir, "run"),
            mode(0o555, "run"),
            conf(general='listen = "unix:{root}/run/api"'),
        ),
        "~error: {root}/run: user {user} may not read, write and enter it."
        " Fix: (chgrp {group} {root}/run && chmod g|chmod u)\\+rwx {root}/run",
    ),
]

SPOOL: Final = [
    *(
        case(
            f"{name} cannot be written",
            mode(0o555, f"reports/{name}"),
            f"error: {{root}}/reports/{name}: user {{user}} may not read, write and enter it. Fix:"
            f" chmod u+rwx {{root}}/reports/{name}",
        )
        for name in ("incoming", "failed")
    ),
    case(
        "incoming is a file",
        path(replace_with_file, "reports/incoming"),
        "error: {root}/reports/incoming: is not a directory."
        " Fix: set processing.reporting.directory to another path, or move"
        " {root}/reports/incoming away if nothing else needs it; relayd creates the directory",
    ),
    case(
        "incoming cannot be made",
        both(path(Path.rmdir, "reports/incoming"), mode(0o555, "reports")),
        "error: {root}/reports/incoming: does not exist, and user {user} may not create it in"
        " {root}/reports. Fix: install -d -o {user} -g {group} -m 0770 {root}/reports/incoming",
    ),
    case(
        "spool cannot be entered",
        mode(0o600, "reports"),
        *(
            f"error: {{root}}/reports/{name}: user {{user}} may not enter {{root}}/reports. Fix:"
            " chmod u+x {root}/reports"
            for name in ("incoming", "failed")
        ),
    ),
    case(
        "everybody may write",
        mode(0o777, "reports/incoming"),
        "warning: {root}/reports/incoming: every user of this machine may write to it."
        " Fix: chmod o-w {root}/reports/incoming; the web server has access through its group",
    ),
    case(
        "run logs cannot be read",
        spool_file(bits=0),
        "error: {root}/reports/incoming: user {user} may not read 1 of its files, such as"
        " 2026-03-01T12:00:00+00:00@node1.log."
        " Fix: chgrp {group} and chmod g+r them; set the web server's umask to 0027",
    ),
    case(
        "nobody takes the run logs",
        spool_file(age=7_200.0, bits=0o644),
        "error: general.listen 127.0.0.1:{port}: relayd is not running, and 1 file waits, the"
        " oldest for 2 h. Fix: install relayd's unit and start it, or run rudder-relayd -c {conf}",
        "warning: {root}/reports/incoming: waiting files: 1, the oldest for 2 h. Fix: see its log"
        " for the reason: output unavailable, or file stays",
    ),
    case(
        "shared files cannot be written",
        mode(0o555, "shared-files"),
        "error: {root}/shared-files: user {user} may not read, write and enter it."
        " Fix: chmod u+rwx {root}/shared-files",
    ),
    case(
        "shared folder cannot be read",
        mode(0, "shared-folder"),
        "error: {root}/shared-folder: user {user} may not read and enter it."
        " Fix: chmod u+rx {root}/shared-folder",
    ),
    case(
        "no shared folder",
        path(Path.rmdir, "shared-folder"),
        "warning: {root}/shared-folder: does not exist; nodes get no files of the shared folder."
        " Fix: create the directory, or set shared_folder.path to the one that the server fills",
    ),
]


def listener_gone(file: Path) -> None:
    """Leaves a socket as a process does that is killed."""
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(file))


OPERATION: Final = [
    case(
        "path of the control socket is too long",
        conf(general='control_socket = "/run/' + 110 * "x" + '"'),
        "~error: {conf}/main.conf: general.control_socket: expected the absolute path of a socket,"
        " at most 107 bytes, or .*",
        REST,
    ),
    case(
        "no directories for socket and state",
        conf(general='control_socket = "{root}/run/x"\nstate_directory = "{root}/state"'),
        "warning: {root}/run: does not exist, so commands cannot ask the running relayd."
        " Fix: install -d -o {user} -g {group} -m 0750 {root}/run",
        "warning: {root}/state: does not exist, so nothing can be paused, and the records of nodes"
        " end with relayd. Fix: install -d -o {user} -g {group} -m 0750 {root}/state",
    ),
    case(
        "socket that no directory of /run holds, and the state in a directory of all",
        conf(general='control_socket = "/run/relayd-none/x"\nstate_directory = "/tmp"'),
        "warning: /run/relayd-none: does not exist, so commands cannot ask the running relayd."
        " Fix: add RuntimeDirectory=relayd-none to the unit of relayd",
    ),
    case(
        "everybody may replace socket and pauses",
        both(
            path(Path.mkdir, "run", "state"),
            conf(general='control_socket = "{root}/run/x"\nstate_directory = "{root}/state"'),
            mode(0o777, "run", "state"),
        ),
        "warning: {root}/run: every user of this machine may change it, and with it the control"
        " socket. Fix: chmod o-w {root}/run",
        "warning: {root}/state: every user of this machine may change it, and with it what is"
        " paused. Fix: chmod o-w {root}/state",
    ),
    case(
        "socket of a killed relayd",
        path(listener_gone, "control.sock"),
        "warning: {root}/control.sock: nobody listens on it: a relayd that was killed has left it."
        " Fix: install relayd's unit and start it, or run rudder-relayd -c {conf}; it replaces the"
        " socket",
    ),
    case(
        "a file has the name of the socket; pauses and records are broken",
        both(
            write("control.sock", ""),
            write("paused.json", "{"),
            write("nodes.records", "relayd node records 9\n"),
        ),
        "warning: {root}/control.sock: is not a socket, so relayd makes none."
        " Fix: set general.control_socket to another path, or move it away if nothing else needs"
        " it",
        "~warning: {root}/paused.json: is no file of pauses \\(.*\\), so nothing is paused, and"
        " nothing can be. Fix: remove it: rm {root}/paused.json",
        "warning: {root}/nodes.records: cannot be used (not node records of this version), so the"
        " history of the nodes begins again. Fix: install the version of relayd that has written"
        " it, or remove it: rm {root}/nodes.records",
    ),
    case(
        "pauses of a newer version",
        write("paused.json", '{"version": 2, "paused": {"reporting": "all"}}'),
        "warning: {root}/paused.json: was written by a newer version of relayd, and may say more"
        " than this one knows. Fix: install that version again, or write it again: relayd resume -c"
        " {conf}",
    ),
    case(
        "what operators have left paused and on hold",
        operated,
        "~warning: {root}/paused.json: run logs are paused by ann since .* until .*\\."
        " Fix: relayd resume reporting -c {conf}",
        "~note: node node1: its files are on hold, by bob since .*\\."
        " Fix: relayd queue release --node node1 -c {conf}",
        "note: {root}/reports/on-hold: 1 file on hold. Fix: relayd queue release --all -c {conf}"
        " brings them back; relayd queue list --state held -c {conf} shows them",
    ),
    case(
        "which nodes are on hold is not known",
        both(path(Path.mkdir, "reports/on-hold"), write("reports/on-hold/nodes.json", "{")),
        "~warning: {root}/reports/on-hold/nodes\\.json: which nodes are on hold is not known: .*"
        " Fix: mv {root}/reports/on-hold/nodes\\.json {root}/reports/on-hold/nodes\\.json\\.broken,"
        " and hold nodes again: relayd queue hold",
    ),
]

NODES: Final = [
    case(
        "no nodes list",
        unlink("nodeslist.json"),
        "error: {root}/nodeslist.json: does not exist; files wait until it can be read. "
        + REGENERATE,
    ),
    case(
        "nodes list is cut off",
        path(cut, "nodeslist.json"),
        "~error: {root}/nodeslist.json: line 1, character \\d+: .*;"
        " files wait until it can be read\\. " + REGENERATE,
    ),
    case(
        "nodes list cannot be read",
        mode(0, "nodeslist.json"),
        "error: {root}/nodeslist.json: user {user} may not read it."
        " Fix: chmod u+r {root}/nodeslist.json",
    ),
    case(
        "nodes list is a directory",
        path(replace_with_directory, "nodeslist.json"),
        "error: {root}/nodeslist.json: is a directory, expected a file."
        " Fix: set general.nodes_list_file to another path, or remove it if it is empty: rmdir"
        " {root}/nodeslist.json",
    ),
    case(
        "nodes list of another format",
        path(lambda file: file.write_text('{"a": 1, "b": 2}'), "nodeslist.json"),
        '~error: {root}/nodeslist.json: none of its 2 entries can be used; the first: node "a"'
        " skipped: .*; files wait until it can be read\\. " + REGENERATE,
        faults=("F6",),
    ),
    case(
        "odd host name",
        nodes(node1={"hostname": "a..b", "policy-server": "root"}),
        'warning: {root}/nodeslist.json: node "node1" cannot be reached: expected a host name'
        ' without empty parts, got hostname "a..b". Fix: correct the host name on the node, send an'
        " inventory from it and regenerate the policies",
        faults=("F6",),
    ),
    case(
        "many odd entries",
        nodes(**{f"x{number}": {"policy-server": "root"} for number in range(22)}),
        *['~warning: {root}/nodeslist.json: node "x\\d+" skipped: .*\\. ' + REGENERATE] * 20,
        "warning: {root}/nodeslist.json: 2 more of its entries have such faults. " + REGENERATE,
        faults=("F6",),
    ),
    case(
        "node without host name",
        nodes(node2={"policy-server": "root"}),
        '~warning: {root}/nodeslist.json: node "node2" skipped: .*hostname.*\\. ' + REGENERATE,
    ),
    case(
        "root is not listed",
        both(nodes(root=None), lambda site, _: site.certificates.write_bytes(node1().cert_pem)),
        'warning: {root}/nodeslist.json: it does not list "root", which is this server. '
        + REGENERATE,
    ),
    case(
        "all nodes are another server's",
        nodes(
            root={"hostname": "root.test", "policy-server": "other"},
            node1={"hostname": "node1.test", "policy-server": "other"},
        ),
        "warning: {root}/nodeslist.json: no node in it has policy server root."
        " Fix: correct general.node_id if it is wrong; otherwise regenerate the policies",
    ),
    case(
        "no way to a node",
        nodes(node1={"hostname": "node1.test", "policy-server": "ghost"}),
        "warning: {root}/nodeslist.json: no route from here to 1 node: node1. " + REGENERATE,
    ),
]

CERTIFICATES: Final = [
    case(
        "no certificates file",
        unlink("allnodescerts.pem"),
        "error: {root}/allnodescerts.pem: does not exist, and 2 nodes: root, node1 need a"
        " certificate in it. " + REGENERATE,
    ),
    case(
        "certificates are cut off",
        path(cut, "allnodescerts.pem"),
        "~error: {root}/allnodescerts.pem: line \\d+: cut off within this certificate. "
        + REGENERATE,
    ),
    case(
        "certificates cannot be read",
        mode(0, "allnodescerts.pem"),
        "error: {root}/allnodescerts.pem: user {user} may not read it."
        " Fix: chmod u+r {root}/allnodescerts.pem",
    ),
    case(
        "certificate is no base64",
        path(
            lambda file: file.write_text(
                "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n" + file.read_text()
            ),
            "allnodescerts.pem",
        ),
        "~warning: {root}/allnodescerts.pem: line 1: not base64: .*\\. " + REGENERATE,
    ),
    case(
        "certificate of a stranger",
        certify(node1(), make_key_and_cert("stranger")),
        "warning: {root}/allnodescerts.pem: certificates of unlisted nodes,"
        " 1 node: stranger. " + REGENERATE,
    ),
    case(
        "certificate of nobody",
        certify(node1(), nameless()),
        "~warning: {root}/allnodescerts.pem: no node id \\(subject UID\\) in"
        " 1 certificate: line \\d+\\. " + REGENERATE,
    ),
    case(
        "weak key",
        certify(node1(), make_key_and_cert("node1 weak", 1024)),
        "~warning: {root}/allnodescerts.pem: line \\d+: the RSA key has 1024 bits, at least 2048"
        " are needed\\. " + REGENERATE,
    ),
    case(
        "certificate expired",
        certify(node1(not_after=NOW - timedelta(days=1))),
        "warning: {root}/allnodescerts.pem: expired but still trusted, 1 node: node1. " + RENEW,
    ),
    case(
        "certificate expires soon",
        certify(node1(not_after=NOW + timedelta(days=20))),
        "warning: {root}/allnodescerts.pem: expires within 30 days, 1 node: node1. " + RENEW,
    ),
    case(
        "node without certificate",
        certify(),
        "warning: {root}/allnodescerts.pem: no certificate of 1 node: node1."
        " Fix: send an inventory from the node, accept it and regenerate the policies",
    ),
    case(
        "no certificate at all",
        write("allnodescerts.pem", ""),
        "error: {root}/allnodescerts.pem: no certificate of 2 nodes: root, node1."
        " Fix: send an inventory from the node, accept it and regenerate the policies",
    ),
    case(
        "key of another",
        nodes(
            node1={
                "hostname": "node1.test",
                "policy-server": "root",
                "key-hash": f"sha256:{'0' * 64}",
            }
        ),
        "warning: {root}/allnodescerts.pem: the key does not match key-hash in the nodes list,"
        " 1 node: node1. Fix: send an inventory from the node; if nobody changed its key,"
        " investigate",
    ),
]

REMOTE_RUN: Final = [
    case(
        "no command",
        unlink("rudder"),
        "error: {root}/rudder: not accessible: No such file or directory. Fix: set"
        " remote_run.command to the rudder command, or set remote_run.enabled to false",
    ),
    case(
        "command is no program",
        mode(0o644, "rudder"),
        "error: {root}/rudder: is not executable. Fix: set remote_run.command to the rudder"
        " command, or chmod 0755 {root}/rudder",
    ),
    case(
        "relative command",
        conf(remote_run='command = "bin/rudder"'),
        "warning: bin/rudder: is a relative path: which command it is depends on the directory"
        " that relayd starts in. Fix: set remote_run.command to an absolute path",
        faults=("F4",),
    ),
    case(
        "anybody can change what root runs",
        both(mode(0o777, "rudder"), conf(remote_run="use_sudo = true")),
        "error: {root}/rudder: sudo runs it as root, but users other than root can change it."
        " Fix: chown root:root {root}/rudder && chmod 0755 {root}/rudder",
    ),
]


def replace_with_link(directory: Path, target: str = "/nowhere/else") -> None:
    """Puts a link in place of a directory, by default one to nowhere."""
    directory.rmdir()
    directory.symlink_to(target)


def number(key: str, value: str, shown: str, why: str) -> Case:
    """A case of a number without sense; `key` is dotted, `shown` has the limit of the fix."""
    table, _, name = key.rpartition(".")
    value_shown, limit = shown.split("|")
    return case(
        f"{key} = {value}",
        conf(**{table.replace(".", "__"): f"{name} = {value}"}),
        f"warning: {{conf}}/main.conf: {key} is {value_shown}: {why}. Fix: use {limit}",
        faults=("F35",),
    )


def syntax(name: str, line: str, fix: str) -> Case:
    """A case of a line that is not TOML, at the end of main.conf."""
    return case(
        f"syntax: {name}",
        path(lambda file: file.write_text(f"{file.read_text()}\n{line}\n"), "etc/main.conf"),
        f"~error: {{conf}}/main.conf: line \\d+.*\\. Fix: correct line \\d+{fix}",
        REST,
        faults=("F37",),
    )


SYNTAX: Final = [
    syntax(
        "key twice",
        "[output.upstream]\nhost = 'a'\nhost = 'b'",
        ": a key or a table stands in the file once.*",
    ),
    syntax("table twice", "[general]", ": a key or a table stands in the file once.*"),
    syntax("backslash", '[output.upstream]\nhost = "C:\\dir"', ": write each backslash twice.*"),
    syntax(
        "False",
        "[output.upstream]\nhost = False",
        ": booleans are written true and false, in lower case",
    ),
    syntax(
        "yes", "[output.upstream]\nhost = yes # so be it", ": booleans are written true and false.*"
    ),
    syntax(
        "unit", "[output.upstream]\nhost = 10MB", ": numbers have no leading zeros and no unit.*"
    ),
    syntax(
        "no quotes",
        "[output.upstream]\nhost = 127.0.0.1:3030",
        ": strings are written in double quotes",
    ),
    syntax("colon", "[a]\nb: 1", ": a line is written as key = value"),
    syntax("open table", "[a", ": close what is opened there.*"),
    syntax("garbage", '= "x"', ": a line is written as key = value"),
]

RELATIVE: Final = (
    "warning: {{conf}}/main.conf: {key} is relative, so {path} means /{path} under systemd."
    " Fix: set {key} to an absolute path"
)

SENSE: Final = [
    number("general.blocking_threads", "100000", "100000|1000 or less", "threads are used"),
    number(
        "processing.reporting.cleanup.retention",
        '"60s"',
        "60 s|60 min or more",
        "files expire in a short outage of the output",
    ),
    number(
        "processing.reporting.catchup.frequency",
        '"5ms"',
        "5 ms|100 ms or more",
        "the directory is read all the time",
    ),
    number(
        "remote_run.timeout",
        '"1500ms"',
        "1.5 s|10 s or more",
        "agents are ended before they are done",
    ),
    number(
        "processing.reporting.catchup.frequency",
        '"3days"',
        "3 days|60 min or less",
        "files whose event was lost wait as long",
    ),
    number(
        "processing.reporting.max_size", "50", "50|65536 or more", "ordinary run logs are refused"
    ),
    number("remote_run.max_commands", "99999", "99999|1000 or less", "each is a process as root"),
    case(
        "5000 workers",
        conf(general="core_threads = 5000"),
        "~(error|warning): {conf}/main.conf: general.core_threads is 5000, but this machine has"
        " \\d+ processors.* Fix: remove it, or use \\d+ or less",
        faults=("F35",),
    ),
    case(
        "relative path",
        conf(general='nodes_list_file = "nodes.json"', remote_run='command = "bin/rudder"'),
        "error: /nodes.json: does not exist; files wait until it can be read."
        " Fix: set general.nodes_list_file to an absolute path",
        RELATIVE.format(key="general.nodes_list_file", path="nodes.json"),
        "warning: bin/rudder: is a relative path: which command it is depends on the directory"
        " that relayd starts in. Fix: set remote_run.command to an absolute path",
        faults=("F37",),
    ),
]

ANCHORS: Final = [
    *(
        case(
            f"everybody may change {name}",
            mode(0o666, name),
            f"error: {{root}}/{name}: every user of this machine may change it, and with it"
            f" {why}. Fix: chmod o-w {{root}}/{name}",
            faults=("F35",),
        )
        for name, why in (
            ("nodeslist.json", "whose run logs are accepted"),
            ("allnodescerts.pem", "whose signatures are accepted"),
        )
    ),
    case(
        "everybody may change the configuration's directory",
        mode(0o777, "etc"),
        "error: {conf}/main.conf: every user of this machine may change {conf}, and with it all of"
        " relayd. Fix: chmod o-w {conf}",
        faults=("F35",),
    ),
    case(
        "everybody may change failed",
        mode(0o777, "reports/failed"),
        "warning: {root}/reports/failed: every user of this machine may write to it."
        " Fix: chmod o-w {root}/reports/failed; the web server has access through its group",
        faults=("F35",),
    ),
    case(
        "everybody may change the shared folder",
        mode(0o777, "shared-folder"),
        "warning: {root}/shared-folder: every user of this machine may change it, and with it what"
        " nodes download. Fix: chmod o-w {root}/shared-folder",
        faults=("F35",),
    ),
]


def other(key: str, place: str) -> str:
    """The fix for what is not relayd's: another path, and nothing is done to the present one."""
    return f"Fix: set {key} to another path; leave {place} as it is, for it is not relayd's own"


FOREIGN: Final = [
    case(
        "files of the system in place of relayd's",
        conf(
            general='nodes_list_file = "/dev/zero"\nnodes_certs_file = "/tmp"',
            shared_files='path = "/dev/null"',
            shared_folder='path = "/etc/passwd"',
        ),
        "error: /dev/null: is not a directory. " + other("shared_files.path", "/dev/null"),
        "error: /etc/passwd: is not a directory. " + other("shared_folder.path", "/etc/passwd"),
        "error: /dev/zero: is not a regular file. Fix: set general.nodes_list_file to another path",
        "error: /tmp: is a directory, expected a file. "
        + other("general.nodes_certs_file", "/tmp"),
        faults=("F37",),
    ),
    case(
        "shared folder of the system",
        conf(shared_folder='path = "/etc"'),
        "error: /etc: every node may read what is in it, and it belongs to the system. "
        + other("shared_folder.path", "/etc"),
        faults=("F37",),
    ),
    case(
        "nodes list of the system",
        conf(general='nodes_list_file = "/proc/version"'),
        "error: /proc/version: line 1, character 0: expected '{{'; files wait until it can be read."
        " Fix: set general.nodes_list_file to another path",
        faults=("F37",),
    ),
    case(
        "empty nodes list",
        both(write("nodeslist.json", "{}"), write("allnodescerts.pem", "")),
        "warning: {root}/nodeslist.json: it lists no node. " + REGENERATE,
    ),
    case(
        "programs in directories for all",
        conf(remote_run='command = "/tmp"'),
        "error: /tmp: is not a program. Fix: set remote_run.command to the rudder command",
        faults=("F37",),
    ),
]

PLACES: Final = [
    *(
        case(
            f"{name} is a link to nowhere",
            path(replace_with_link, name),
            f"error: {{root}}/{name}: is a symbolic link to /nowhere/else, which does not exist."
            f" Fix: make that directory, or remove the link: rm {{root}}/{name}",
            faults=("F35",),
        )
        for name in ("reports/incoming", "reports/failed", "shared-folder")
    ),
    case(
        "shared folder holds the spool and the configuration",
        conf(shared_folder='path = "{root}"'),
        *(
            f"error: {{root}}: every node may read {{root}}/{name}, which lies in it."
            " Fix: set shared_folder.path to a directory that holds nothing else"
            for name in ("etc", "reports/incoming", "reports/failed", "shared-files")
        ),
        faults=("F35",),
    ),
    case(
        "shared files in the spool",
        conf(shared_files='path = "{root}/reports/failed"'),
        "error: {root}/reports/failed: relayd removes expired files from it, and it is also a"
        " directory of the spool."
        " Fix: set shared_files.path to a directory that holds nothing else",
        faults=("F35",),
    ),
    case(
        "shared files around and inside of others",
        conf(shared_files='path = "{root}/reports/failed/x"'),
        "error: {root}/reports/failed/x: relayd removes expired files from it, and it lies in"
        " {root}/reports/failed. Fix: set shared_files.path to a directory that holds nothing else",
        faults=("F35",),
    ),
    case(
        "shared files are the shared folder",
        conf(shared_files='path = "{root}/shared-folder"'),
        "error: {root}/shared-folder: every node may read what is in it, and it is also"
        " shared_files.path. Fix: set shared_folder.path to a directory that holds nothing else",
        faults=("F35",),
    ),
    case(
        "failed is incoming",
        path(partial(replace_with_link, target="incoming"), "reports/failed"),
        "error: {root}/reports/incoming: is the same directory as {root}/reports/failed."
        " Fix: make each a directory of its own",
        faults=("F35",),
    ),
]


ALL: Final = [
    *CONFIGURATION,
    *LISTEN,
    *SPOOL,
    *NODES,
    *OPERATION,
    *CERTIFICATES,
    *REMOTE_RUN,
    *SYNTAX,
    *SENSE,
    *ANCHORS,
    *FOREIGN,
    *PLACES,
]


def test_a_sound_site_has_no_findings(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sound installation has no findings, and the exit code is 0."""
    monkeypatch.setattr(openssl, "is_old", lambda _text: False)
    done = check(site)
    assert about_site(done.findings) == []
    assert done.lines[-1] == f"18 checks for user {service_user()}: 1 warning"
    assert (done.code, done.stderr) == (0, "")


@pytest.mark.parametrize("broken", parameters(ALL))
def test_each_fault_is_one_line_with_its_fix(
    broken: Case, site: Site, shared_database: postgres.Database
) -> None:
    """A fault is reported in its line and nothing else is; only errors give exit code 1."""
    broken.apply(site, shared_database)
    verify(check(site), broken.lines, site, lonely=broken.name == "run logs go nowhere")
