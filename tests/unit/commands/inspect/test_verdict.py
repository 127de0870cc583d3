"""`relayd inspect` and the daemon give the same verdict on the same file, for the same reason."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
from click.testing import CliRunner

from relayd.commands.inspect.command import command
from relayd.commands.inspect.verdict import Criteria, Verdict, judge
from relayd.errors import Gone, Reason, Refused, Retry
from relayd.fleet.nodes import Nodes
from relayd.pipelines.workers.job import Setup
from relayd.runlog.model import RunLog
from tests.support.mutated import BARE, MAX_SIZE, NODE, OTHER, STRANGER, make_draft, put, text_of
from tests.support.signing import sign_runlog
from tests.support.verdicts import daemon_verdicts, error_begins, nodes_with

FILES: Final = 500
SKIPPED: Final = frozenset({"log_info"})

#: Reasons that an examination alone cannot give.
LATER: Final = {Reason.DATABASE, Reason.WORKER_CRASH, Reason.EXPIRED}


@dataclass
class Spool:
    """A watched directory of mutated files, and the verdicts of the daemon.

    Attributes:
        directory: of the files.
        names: of the files that are compared.
        nodes: nodes that the daemon knows.
        verdicts: of the daemon, by name.
    """

    directory: Path
    names: list[str]
    nodes: Nodes
    verdicts: dict[str, Verdict]

    def judge(self, name: str) -> Verdict:
        """Return the verdict of `relayd inspect`."""
        return judge(self.directory / name, Criteria(self.nodes, MAX_SIZE, SKIPPED))


@pytest.fixture(scope="module")
def spool(tmp_path_factory: pytest.TempPathFactory) -> Spool:
    directory = tmp_path_factory.mktemp("incoming")
    drafts = {draft.name: draft for draft in map(make_draft, range(FILES))}
    for draft in drafts.values():
        put(draft, directory)
    nodes = nodes_with(
        [NODE.node_id, OTHER.node_id, BARE.node_id],
        [NODE.cert_der, OTHER.cert_der, STRANGER.cert_der],
    )
    names = [*drafts, "2026-03-02T00:00:00+00:00@node1.log"]  # the last one does not exist
    setup = Setup(str(directory), MAX_SIZE, SKIPPED)
    return Spool(directory, names, nodes, daemon_verdicts(setup, names, nodes))


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Return a configuration with the nodes and limits of the daemon."""
    directory = tmp_path / "relayd"
    directory.mkdir()
    entry = {"hostname": "n", "policy-server": "root"}
    nodes_list, certs = tmp_path / "nodeslist.json", tmp_path / "certs.pem"
    nodes_list.write_text(json.dumps({n.node_id: entry for n in (NODE, OTHER, BARE)}))
    certs.write_bytes(NODE.cert_pem + OTHER.cert_pem + STRANGER.cert_pem)
    conf = directory / "main.conf"
    conf.write_text(
        f"""
        [general]
        node_id = "root"
        nodes_list_file = "{nodes_list}"
        nodes_certs_file = "{certs}"
        [processing.reporting]
        skip_event_types = {sorted(SKIPPED)}
        max_size = {MAX_SIZE}
        """
    )
    conf.chmod(0o600)
    return directory


def inspect(*arguments: str | Path) -> list[dict[str, Any]]:
    """Return the documents that the command prints."""
    texts = [os.fspath(argument) for argument in arguments]
    result = CliRunner().invoke(command, ["--json", *texts], standalone_mode=False)
    if result.exception:
        raise result.exception
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_mutated_files_cover_every_reason(spool: Spool) -> None:
    """Among the mutated files are some for every reason, good ones, and one that is missing."""
    verdicts = list(spool.verdicts.values())
    reasons = {verdict.reason for verdict in verdicts if isinstance(verdict, Refused)}
    assert reasons == set(Reason) - LATER
    assert len(verdicts) == len(spool.names) > FILES * 0.99
    assert sum(isinstance(verdict, RunLog) for verdict in verdicts) > FILES // 10
    assert Gone() in verdicts


def test_verdict_is_that_of_the_daemon(spool: Spool) -> None:
    """On each file the verdict, reason and detail are those of the daemon's examine stage."""
    assert {name: spool.judge(name) for name in spool.names} == spool.verdicts


def test_printed_error_begins_with_the_reason_of_the_daemon(spool: Spool, config: Path) -> None:
    """Further faults follow the daemon's reason and detail; an accepted file has none."""
    documents = inspect("-c", config, *[spool.directory / name for name in spool.names])
    errors = {Path(document["file"]).name: document["error"] for document in documents}
    assert errors.keys() == spool.verdicts.keys()
    assert {
        name: (errors[name], verdict)
        for name, verdict in spool.verdicts.items()
        if not error_begins(errors[name], verdict)
    } == {}


def test_given_certificates_are_judged_as_by_a_daemon_that_knows_all_nodes(
    spool: Spool, tmp_path: Path
) -> None:
    """With `--certs` the verdicts are those of a daemon whose nodes list has every node."""
    certs = tmp_path / "certs.pem"
    certs.write_bytes(NODE.cert_pem + OTHER.cert_pem)
    names = [name for name in spool.names if "node1" in name or "stranger" in name][:100]
    nodes = nodes_with(["node1", "node2", "stranger"], [NODE.cert_der, OTHER.cert_der])
    verdicts = daemon_verdicts(Setup(str(spool.directory), 2**20, SKIPPED), names, nodes)
    documents = inspect("--certs", certs, *[spool.directory / name for name in names])
    for name, document in zip(names, documents, strict=True):
        assert error_begins(document["error"], verdicts[name]), (document["error"], verdicts[name])
    reasons = {v.reason for v in verdicts.values() if isinstance(v, Refused)}
    assert Reason.NO_CERTIFICATE in reasons
    assert Reason.UNKNOWN_NODE not in reasons


NAME: Final = "2026-03-01T00:00:00+00:00@node1"


@pytest.mark.parametrize("name", [f"{NAME}.log", "current"])
def test_symbolic_link_is_followed_under_its_own_name(
    spool: Spool, tmp_path: Path, name: str
) -> None:
    """Unlike the daemon, `inspect` follows a link; the name that counts is that of the link."""
    target = tmp_path / "target"
    target.write_bytes(sign_runlog(text_of(NODE), NODE))
    link = tmp_path / name
    link.symlink_to(target)
    verdict = judge(link, Criteria(spool.nodes, MAX_SIZE, SKIPPED))
    link.unlink()
    target.rename(link)
    setup = Setup(str(tmp_path), MAX_SIZE, SKIPPED)
    assert {name: verdict} == daemon_verdicts(setup, [name], spool.nodes)


@pytest.mark.parametrize("target", ["missing", "link.log"])
def test_symbolic_link_to_nowhere_is_missing_or_unreadable(
    spool: Spool, tmp_path: Path, target: str
) -> None:
    """A link whose target is missing is like a missing file; a circle of links cannot be read."""
    link = tmp_path / f"{NAME}.log"
    link.symlink_to(tmp_path / target)
    (tmp_path / "link.log").symlink_to(link)
    verdict = judge(link, Criteria(spool.nodes, MAX_SIZE, SKIPPED))
    if target == "missing":
        assert verdict == Gone()
    else:
        assert verdict == Retry("cannot be read: Too many levels of symbolic links")


def test_path_that_the_system_does_not_resolve_is_unreadable(spool: Spool, tmp_path: Path) -> None:
    """A name that is too long and a long chain of links end in one line with the system's words."""
    chain = tmp_path / f"{NAME}.log"
    chain.touch()
    for number in range(1500):
        link = tmp_path / f"{number}.log"
        link.symlink_to(chain.name)
        chain = link
    criteria = Criteria(spool.nodes, MAX_SIZE, SKIPPED)
    assert judge(chain, criteria) == Retry("cannot be read: Too many levels of symbolic links")
    long = tmp_path / f"{'x' * 300}.log"
    assert judge(long, criteria) == Retry("cannot be read: File name too long")


def test_signed_is_judged_as_log(spool: Spool, tmp_path: Path) -> None:
    """`NAME.signed` gets the daemon's verdict on `NAME.log`; other names keep theirs."""
    criteria = Criteria(spool.nodes, MAX_SIZE, SKIPPED)
    data = {NAME: sign_runlog(text_of(NODE), NODE), "report": b"", f"{NAME}.log": b""}
    for name, content in data.items():
        (tmp_path / f"{name}.signed").write_bytes(content)
    (tmp_path / f"{NAME}.log").write_bytes(data[NAME])
    names = [f"{NAME}.log", "report.signed"]
    verdicts = daemon_verdicts(Setup(str(tmp_path), MAX_SIZE, SKIPPED), names, spool.nodes)
    assert judge(tmp_path / f"{NAME}.signed", criteria) == verdicts[f"{NAME}.log"]
    assert judge(tmp_path / "report.signed", criteria) == verdicts["report.signed"]
