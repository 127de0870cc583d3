"""`relayd inspect` on real run logs."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from relayd.commands.inspect.command import command
from tests.support.project import VECTORS

SIGNED = "2018-08-24T15_55_01+00_00@e745a140-40bc-4b86-b6dc-084488fc906b"
UNSIGNED = "2019-12-02T14_24_20+00_00@root"

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
    """A real signed run log is verified and gives the reference's fields."""
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
    """Plain agent output is shown with the reference's fields, and refused as not signed."""
    code, document = inspect(VECTORS / "runlogs" / f"{name}.log")
    assert (code, document["verified"], document["signer"]) == (1, False, None)
    assert "not signed" in document["error"]
    assert same(document, expected(name))
