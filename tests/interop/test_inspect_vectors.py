"""`relayd inspect` on real run logs."""

import json
import re
import ssl
from pathlib import Path
from typing import Any, Final

import pytest
from click.testing import CliRunner

from relayd.commands.inspect.command import command
from relayd.commands.inspect.verdict import Criteria, judge, spool_name
from relayd.pipelines.workers.job import Setup
from relayd.runlog.model import RunLog
from relayd.runlog.signature.certificates import read_certificate
from tests.support.project import VECTORS
from tests.support.verdicts import daemon_verdicts, nodes_with

SIGNED = "2018-08-24T15_55_01+00_00@e745a140-40bc-4b86-b6dc-084488fc906b"
UNSIGNED = "2019-12-02T14_24_20+00_00@root"

CERTIFICATE: Final = re.compile(
    r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL
)
#: In the nodes list of the test, but without a certificate.
BARE: Final = "bare"

pytestmark = pytest.mark.skipif(not VECTORS.is_dir(), reason="no reference data (RELAYD_VECTORS)")


def inspect(path: Path) -> tuple[int, dict[str, Any]]:
    certs = VECTORS / "keys" / "nodescerts.pem"
    arguments = ["--json", "--certs", str(certs), str(path)]
    result = CliRunner().invoke(command, arguments, standalone_mode=False, catch_exceptions=False)
    return result.return_value, json.loads(result.stdout)


def expected(name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((VECTORS / "runlogs" / f"{name}.json").read_text())
    return document


def same(document: dict[str, Any], reference: dict[str, Any]) -> bool:
    return bool(
        document["reports"] == reference["reports"]
        and document["config_id"] == reference["config_id"]
        and document["node_id"] == reference["info"]["node_id"]
        and document["timestamp"] == reference["info"]["timestamp"]
    )


def test_signed_run_log_is_accepted_under_a_proper_name(tmp_path: Path) -> None:
    """A real signed run log is verified and gives the fields of the reference."""
    path = tmp_path / f"{SIGNED}.log"
    path.write_bytes((VECTORS / "runlogs" / f"{SIGNED}.signed").read_bytes())
    code, document = inspect(path)
    assert (code, document["verified"], document["error"]) == (0, True, None)
    assert document["type"] == "complete"
    assert same(document, expected(SIGNED))


def test_signed_run_log_kept_aside_is_accepted_with_a_note() -> None:
    """With the extension of the reference file, it is examined as a run log, with a note."""
    code, document = inspect(VECTORS / "runlogs" / f"{SIGNED}.signed")
    assert (code, document["verified"], document["error"]) == (0, True, None)
    assert document["skipped"][0].startswith("extension .signed is judged as .log")
    assert same(document, expected(SIGNED))


@pytest.mark.parametrize("name", [SIGNED, UNSIGNED])
def test_unsigned_run_log_is_shown_and_refused(name: str) -> None:
    """Plain agent output is shown with the fields of the reference, and refused as not signed."""
    code, document = inspect(VECTORS / "runlogs" / f"{name}.log")
    assert (code, document["verified"], document["signer"]) == (1, False, None)
    assert "not signed" in document["error"]
    assert same(document, expected(name))


def certificates() -> list[tuple[str, bytes]]:
    """Return node id and DER of each certificate of a node in the reference data."""
    found = []
    for path in [*VECTORS.rglob("*.pem"), *VECTORS.rglob("*.cert")]:
        for block in CERTIFICATE.findall(path.read_text("latin-1")):
            der = ssl.PEM_cert_to_DER_cert(block)
            node_id = read_certificate(der)[0]
            if node_id is not None:
                found.append((node_id, der))
    return found


def names_for(path: Path, node_ids: list[str]) -> list[str]:
    """Return a reference file's own name, and run-log names of all nodes and archive forms."""
    names = [
        f"2026-03-01T10:00:01+00:00@{node_id}.log{archive}"
        for node_id in node_ids
        for archive in ("", ".gz", ".zip")
    ]
    if spool_name(path.name) == path.name:  # else it is judged as another one
        names.append(path.name)
    return names


def test_verdicts_on_all_reference_files_are_those_of_the_daemon(tmp_path: Path) -> None:
    """Each file, under its own name and as the run log of each node, gets the same verdict."""
    known = certificates()
    node_ids = sorted({node_id for node_id, _ in known})
    nodes = nodes_with([*node_ids, BARE], [der for _, der in known])
    criteria = Criteria(nodes, 2**20, frozenset())
    files = [path for path in VECTORS.rglob("*") if path.is_file()]
    accepted = 0
    for number, path in enumerate(sorted(files)):
        directory = tmp_path / str(number)
        directory.mkdir()
        names = names_for(path, [*node_ids, BARE, "stranger"])
        for name in names:
            (directory / name).write_bytes(path.read_bytes())
        expected = daemon_verdicts(Setup(str(directory), 2**20, frozenset()), names, nodes)
        assert {name: judge(directory / name, criteria) for name in names} == expected, path
        accepted += sum(isinstance(verdict, RunLog) for verdict in expected.values())
    assert len(node_ids) > 4
    assert accepted >= 4
