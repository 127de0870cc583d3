"""Run logs of real agents, if Rudder's own test data are available."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from relayd.runlog.archive import unpack
from relayd.runlog.filename import parse_name
from relayd.runlog.model import RunLogName
from tests.support.project import VECTORS
from tests.support.runlogs import read, rows

pytestmark = pytest.mark.skipif(not VECTORS.is_dir(), reason="Rudder's test data are not here")

PARSED = sorted(VECTORS.glob("runlogs/*.json"))
LOGS = sorted(VECTORS.glob("runlogs/*.log"))


def name_of(path: Path) -> RunLogName:
    """The parsed name of a run log."""
    name = parse_name(path.with_suffix(".log").name)
    assert isinstance(name, RunLogName)
    return name


def parsed(path: Path) -> dict[str, Any]:
    """The result of the original for a run log."""
    document: dict[str, Any] = msgspec.json.decode(path.read_bytes())
    return document


@pytest.mark.history(14, 15, 19, 20)
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"], ids=["LF", "CRLF", "CR"])
@pytest.mark.parametrize("path", PARSED, ids=lambda path: path.name[:10])
def test_rows_are_those_of_the_original(path: Path, end: bytes) -> None:
    """Each field of each report equals that of the original, with any line ends."""
    wanted = parsed(path)
    text = path.with_suffix(".log").read_bytes().replace(b"\n", end)
    run_log = read(text, name_of(path).node_id)
    assert msgspec.to_builtins(rows(run_log)) == wanted["reports"]
    assert run_log.config_id == wanted["config_id"]
    assert run_log.node_id == wanted["info"]["node_id"]
    assert run_log.complete
    assert run_log.reports == len(wanted["reports"])


@pytest.mark.history(27)
@pytest.mark.parametrize("path", PARSED, ids=lambda path: path.name[:10])
def test_names_say_the_same_as_the_original(path: Path) -> None:
    """Node id and date of a file name equal those of the original."""
    name = name_of(path)
    assert {"node_id": name.node_id, "timestamp": name.timestamp} == parsed(path)["info"]


@pytest.mark.parametrize("path", LOGS, ids=lambda path: path.name[:10])
def test_every_run_log_is_accepted(path: Path) -> None:
    """Run logs of real agents are accepted as complete runs."""
    run_log = read(path.read_bytes(), name_of(path).node_id)
    assert run_log.complete
    assert run_log.config_id
    assert run_log.rows > 60


@pytest.mark.parametrize("archive", ["gz", "zip"])
def test_archives_hold_the_plain_file(archive: str) -> None:
    """Archives made by agents are unpacked to the original file."""
    plain = VECTORS / "gz" / "normal.log"
    packed = plain.with_name(f"{plain.name}.{archive}")
    assert unpack(packed.read_bytes(), archive, 2**20) == plain.read_bytes()
