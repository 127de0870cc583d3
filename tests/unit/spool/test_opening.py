"""Files that are refused although they could be opened."""

import os
from pathlib import Path

import pytest

from relayd.errors import Reason
from relayd.spool.opening import NOT_A_FILE, objection, open_file

#: An account that is neither root's nor that of the tests.
STRANGER = 54_321


def status(*, links: int, owner: int) -> os.stat_result:
    """Return the result of fstat(2) for a regular file."""
    return os.stat_result((0o100640, 1, 1, links, owner, 0, 10, 0, 0, 0))


@pytest.mark.fault("D.3.2")
def test_file_with_a_second_name_elsewhere_is_refused(tmp_path: Path) -> None:
    """A file of root or of this account with several links is refused, one with one is not."""
    secret = tmp_path / "secret"
    secret.write_bytes(b"x")
    (tmp_path / "a.log").hardlink_to(secret)
    descriptor = open_file(str(tmp_path / "a.log"))
    assert isinstance(descriptor, int)
    try:
        refused = objection(os.fstat(descriptor))
        assert refused is not None
        assert refused.reason is Reason.NOT_A_FILE
        assert "2 names" in refused.detail
        assert refused.maybe_unfinished
        secret.unlink()
        assert objection(os.fstat(descriptor)) is None
    finally:
        os.close(descriptor)


@pytest.mark.fault("D.3.2")
@pytest.mark.parametrize("kind", [0o040750, 0o010640, 0o140640, 0o060640, 0o020640])
def test_what_has_no_content_is_refused(kind: int) -> None:
    """Directories, FIFOs, sockets and devices are refused even if they could be opened."""
    opened = os.stat_result((kind, 1, 1, 1, STRANGER, 0, 0, 0, 0, 0))
    assert objection(opened) is NOT_A_FILE


@pytest.mark.fault("D.3.2")
@pytest.mark.parametrize(
    ("me", "owner", "accepted"),
    [(1000, STRANGER, True), (1000, 1000, False), (1000, 0, False), (0, STRANGER, False)],
)
def test_links_of_other_accounts_are_uploads(
    monkeypatch: pytest.MonkeyPatch, me: int, owner: int, accepted: bool
) -> None:
    """If relayd is not root, an upload that a backup has linked is still accepted."""
    monkeypatch.setattr(os, "geteuid", lambda: me)
    assert (objection(status(links=2, owner=owner)) is None) is accepted
    assert objection(status(links=1, owner=owner)) is None
