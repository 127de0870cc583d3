"""The index of refused files."""

from pathlib import Path

import pytest

from relayd.errors import Reason, Refused
from relayd.overview import failed
from relayd.overview.failed import FailedIndex
from relayd.spool.failed import reasons
from relayd.spool.failed.quarantine import RefusedFile, quarantine_all
from relayd.spool.failed.refusals import UNEXPLAINED
from relayd.spool.layout import run_log_spool


def test_look_counts_by_reason_and_reads_each_reason_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused files are counted by reason and node; known ones are not read again."""
    spool = run_log_spool(tmp_path)
    incoming = tmp_path / "incoming"
    incoming.mkdir()
    read: list[Path] = []

    def reading(path: Path) -> reasons.ReasonRecord | None:
        read.append(path)
        return reasons.read_reason(path)

    monkeypatch.setattr(failed, "read_reason", reading)
    index = FailedIndex([spool])
    assert index.look().files == 0  # the directory does not exist yet

    def refuse(number: int, reason: Reason, node: str) -> None:
        name = f"{number}.log"
        (incoming / name).write_bytes(b"12345")
        file = RefusedFile(name, None, Refused(reason, "detail"), node, "")
        quarantine_all(incoming, spool.failed, [file])

    refuse(1, Reason.SIGNATURE, "a")
    refuse(2, Reason.UNKNOWN_NODE, "b")
    refuse(3, Reason.UNKNOWN_NODE, "b")
    state = index.look()
    assert (state.files, state.bytes) == (3, 15)
    assert list(state.reasons.items()) == [("unknown_node", 2), ("signature", 1)]
    assert index.nodes == {"a": 1, "b": 2}
    assert index.files_of("a") == [spool.failed / "1.log"]
    refuse(4, Reason.SIGNATURE, "a")
    (spool.failed / "5.log").write_bytes(b"")
    (spool.failed / ".hidden").write_bytes(b"")
    (spool.failed / "2.log").unlink()
    assert index.look().reasons == {"signature": 2, "unknown_node": 1, UNEXPLAINED: 1}
    assert len(read) == 5
