"""The simulated fleet: good uploads are good, and each bad one is bad in the intended way."""

import itertools
from collections import Counter
from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding

from relayd.commands.demo.fleet.agents import Fleet, Pattern, make_nodes
from relayd.commands.demo.fleet.upload import EXPECTED, Kind, SimulatedUpload
from relayd.errors import Reason, Refused
from relayd.runlog.archive import unpack
from relayd.runlog.filename import parse_name
from relayd.runlog.model import RunLog
from relayd.runlog.parser import parse
from relayd.runlog.signature.certificates import read_certificate
from relayd.runlog.signature.smime import verify

NOW = datetime(2026, 5, 4, 3, 2, 1, 500_000, tzinfo=UTC)
KEYS = [generate_private_key(65_537, 2048) for _ in range(4)]


@pytest.fixture
def waiting() -> set[str]:
    """Names of the uploads that are not processed yet."""
    return set()


@pytest.fixture
def fleet(waiting: set[str]) -> Fleet:
    """Three nodes; half of their uploads are bad."""
    return Fleet(make_nodes(KEYS, NOW), lambda upload: upload.name in waiting, Pattern(50))


def judge(fleet: Fleet, upload: SimulatedUpload) -> RunLog | Reason:
    """Return the verdict of relayd's own functions on an upload."""
    name = parse_name(upload.name)
    assert not isinstance(name, Refused), name
    assert name.node_id == upload.node_id
    assert upload.name.startswith(f"{upload.start.isoformat()}@")  # not dated after its upload
    nodes = {node.node_id: node for node in fleet.nodes}
    if name.node_id not in nodes:
        return Reason.UNKNOWN_NODE
    message = unpack(upload.body, name.archive, 1 << 20)
    if isinstance(message, Refused):
        return message.reason
    certificate = nodes[name.node_id].certificate.public_bytes(Encoding.DER)
    verified = verify(message, [read_certificate(certificate)[1]])
    if isinstance(verified, Refused):
        return verified.reason
    runlog = parse(verified.content, name.node_id)
    return runlog.reason if isinstance(runlog, Refused) else runlog


def test_every_kind_has_its_verdict(fleet: Fleet) -> None:
    """Each good upload yields the promised rows; each bad one is refused for its reason."""
    seen: Counter[Kind] = Counter()
    for upload in (fleet.next_upload(NOW) for _ in range(24)):
        seen[upload.kind] += 1
        verdict = judge(fleet, upload)
        if isinstance(verdict, RunLog):
            assert upload.kind in {Kind.GOOD, Kind.REPLAYED}
            assert upload.kind is Kind.REPLAYED or upload.rows == verdict.rows > 0
            assert verdict.complete
            assert verdict.start == upload.start.isoformat()
        else:
            assert verdict is EXPECTED[upload.kind]
    assert set(seen) == set(Kind)


def test_no_run_is_sent_twice_under_one_date(fleet: Fleet) -> None:
    """Uploads in the same second are different runs, in different files."""
    uploads = [fleet.next_upload(NOW) for _ in range(24)]
    fresh = [upload for upload in uploads if upload.kind is not Kind.REPLAYED]
    assert len({upload.name for upload in fresh}) == len(fresh)
    assert len({(upload.node_id, upload.start) for upload in fresh}) == len(fresh)
    assert all(upload.start.microsecond == 0 for upload in fresh)


def test_an_upload_on_its_way_is_not_replayed(fleet: Fleet, waiting: set[str]) -> None:
    """A replay does not overwrite its original while that is still to be processed."""
    uploads = []
    for _ in range(12):
        upload = fleet.next_upload(NOW)
        waiting.add(upload.name)
        uploads.append(upload)
    assert Kind.REPLAYED not in {upload.kind for upload in uploads}
    assert fleet.owed == 1
    waiting.clear()
    replay = fleet.next_upload(NOW)
    assert replay.kind is Kind.REPLAYED
    assert fleet.owed == 0
    (original,) = [upload for upload in uploads if upload.name == replay.name]
    assert replay.body == original.body


@pytest.mark.parametrize(("bad", "expected"), [(0, 0), (10, 10), (33, 33), (50, 50)])
def test_share_of_bad_uploads(bad: int, expected: int) -> None:
    """The share of bad uploads is the requested one."""
    kinds = list(itertools.islice(Pattern(bad).kinds(), 100))
    assert sum(kind is not Kind.GOOD for kind in kinds) == expected
