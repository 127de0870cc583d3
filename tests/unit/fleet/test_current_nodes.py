"""The current nodes, loaded from real files."""

import functools
import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock, wait_all_tasks_blocked

from relayd.errors import NodesError
from relayd.fleet import current_nodes as module
from relayd.fleet.current_nodes import CurrentNodes
from relayd.system.delays import DELAYS
from relayd.telemetry.metrics import Metrics
from tests.support.signing import make_key_and_cert

#: Node id → its key and certificate, always the same ones.
node_of = functools.cache(make_key_and_cert)


class Home:
    """The two files, and a `CurrentNodes` that reads them."""

    def __init__(self, root: Path) -> None:
        self.list_file = root / "nodeslist.json"
        self.certs_file = root / "allnodescerts.pem"
        self.metrics = Metrics()
        self.trust = CurrentNodes(self.list_file, self.certs_file, "root", self.metrics)

    def write(self, *node_ids: str, behind: Sequence[str] = ()) -> None:
        """Write neighbours with a certificate each, and nodes behind a relay without one."""
        nodes = {n: {"hostname": n, "policy-server": "root"} for n in ("root", *node_ids)}
        nodes |= {n: {"hostname": n, "policy-server": "relay"} for n in behind}
        self.list_file.write_text(json.dumps(nodes))
        self.certs_file.write_bytes(b"".join(node_of(n).cert_pem for n in node_ids))

    def cut(self) -> None:
        """Truncate the nodes list, as if its writer had not finished."""
        self.list_file.write_text(self.list_file.read_text()[:-5])

    def knows(self, node_id: str) -> bool:
        """Return whether the node is one of the current nodes."""
        return self.trust.nodes.get(node_id) is not None

    def gauges(self) -> list[float]:
        """Return the gauges: neighbours, all nodes, certificates expired and not yet valid."""
        m = self.metrics
        gauges = (
            m.managed_nodes,
            m.sub_nodes,
            m.certificate_expired,
            m.certificate_not_yet_valid,
        )
        return [float(gauge._value.get()) for gauge in gauges]


class RecordingNodes(CurrentNodes):
    """Records the time of each load, and repairs the files before one of them.

    Attributes:
        loads: times at which loads began.
        repair_at: number of the load before which the files are repaired.
    """

    def __init__(self, home: Home) -> None:
        super().__init__(home.list_file, home.certs_file, "root", home.metrics)
        self._home = home
        self.loads: list[float] = []
        self.repair_at = 0

    async def load(self) -> None:
        """Load the files."""
        self.loads.append(trio.current_time())
        if len(self.loads) == self.repair_at:
            self._home.write("node1", "node2")
        await super().load()


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Load in the event loop, so that the autojump clock does not overtake a thread."""

    async def run_sync(function: Callable[[], object], **_options: object) -> object:
        await trio.lowlevel.checkpoint()
        return function()

    monkeypatch.setattr("trio.to_thread.run_sync", run_sync)


async def test_load_applies_both_files(home: Home) -> None:
    """Nodes and certificates are available, the gauges show how many, and files may be examined."""
    home.write("node1", "node2", behind=["node3"])
    assert not home.trust.ready.is_set()
    await home.trust.load()
    assert home.trust.ready.is_set()
    assert home.trust.trouble is None
    assert home.trust.nodes.certificates("node1") == (node_of("node1").certificate,)
    assert home.gauges() == [3, 4, 0, 0]


@pytest.mark.fault("G1")
async def test_broken_list_leaves_the_previous_nodes_in_use(home: Home) -> None:
    """A half-written file changes nothing, is logged once, and the error names it."""
    home.write("node1")
    await home.trust.load()
    before, gauges = home.trust.nodes, home.gauges()
    home.write("node1", "node2")
    home.cut()
    with capture_logs() as logs:
        for _ in range(3):
            with pytest.raises(NodesError, match=r"nodeslist\.json"):
                await home.trust.load()
    assert home.trust.nodes is before
    assert home.gauges() == gauges
    assert home.trust.trouble is not None
    (line,) = logs
    assert (line["log_level"], line["effect"]) == ("error", "the previous nodes stay in use")


@pytest.mark.fault("G2")
@pytest.mark.history(56)
async def test_missing_list_at_start_is_not_an_empty_one(home: Home) -> None:
    """Without a list it is not ready, and logs so; certificates alone do not make a node."""
    home.write("node1")
    home.list_file.unlink()
    with capture_logs() as logs, pytest.raises(NodesError, match="does not exist"):
        await home.trust.load()
    assert not home.trust.ready.is_set()
    (line,) = logs
    assert line["effect"] == "files wait"


async def test_list_that_vanishes_later_leaves_the_previous_nodes(home: Home) -> None:
    """A list missing at a reload is taken for one being replaced, so all nodes stay known."""
    home.write("node1")
    await home.trust.load()
    home.list_file.unlink()
    with pytest.raises(NodesError):
        await home.trust.load()
    assert home.knows("node1")


async def test_missing_certificates_count_as_none(home: Home) -> None:
    """Without a certificates file the nodes are known, and each of them has no certificate."""
    home.write("node1")
    home.certs_file.unlink()
    await home.trust.load()
    assert home.trust.ready.is_set()
    assert home.trust.nodes.certificates("node1") == ()


async def test_expired_certificates_are_trusted_and_counted(home: Home) -> None:
    """An expired certificate is still trusted; a gauge and a warning report it."""
    home.write("node1")
    expired = make_key_and_cert("node1", not_after=datetime(2021, 1, 1, tzinfo=UTC))
    home.certs_file.write_bytes(expired.cert_pem)
    with capture_logs() as logs:
        await home.trust.load()
    assert home.trust.nodes.certificates("node1") == (expired.certificate,)
    assert home.gauges()[2] == 1
    (line,) = [line for line in logs if line["log_level"] == "warning"]
    assert line["certificates"] == 1


async def test_certificates_that_begin_later_are_trusted_and_counted(home: Home) -> None:
    """A certificate not yet valid is already trusted; a gauge and a warning report it."""
    home.write("node1")
    future = make_key_and_cert(
        "node1",
        not_before=datetime(2051, 1, 1, tzinfo=UTC),
        not_after=datetime(2061, 1, 1, tzinfo=UTC),
    )
    home.certs_file.write_bytes(future.cert_pem)
    with capture_logs() as logs:
        await home.trust.load()
    assert home.trust.nodes.certificates("node1") == (future.certificate,)
    assert home.gauges()[2:] == [0, 1]
    (line,) = [line for line in logs if line["log_level"] == "warning"]
    assert line["certificates"] == 1
    assert "not yet valid" in line["event"]


async def test_token_follows_the_current_nodes(home: Home) -> None:
    """The token changes when the node or its certificates change, and only then."""
    home.write("node1")
    unknown = home.trust.token("node1")
    await home.trust.load()
    known = home.trust.token("node1")
    home.write("node1", "node2")
    await home.trust.load()
    assert unknown != known == home.trust.token("node1")


@pytest.mark.usefixtures("at_once")
async def test_broken_list_is_retried(home: Home, autojump_clock: MockClock) -> None:
    """A broken list is retried soon, then every ten seconds; success is reported once."""
    nodes = RecordingNodes(home)
    home.write("node1")
    await nodes.load()
    home.cut()
    reported: list[float] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(nodes.run, lambda: reported.append(trio.current_time()))
        await trio.sleep(1000)
        assert len(nodes.loads) == 1
        with pytest.raises(NodesError):
            await nodes.load()
        nodes.repair_at = len(nodes.loads) + 8
        await trio.sleep(1000)
        nursery.cancel_scope.cancel()
    failed, *times = nodes.loads[1:]
    gaps = [b - a for a, b in zip([failed, *times], times, strict=False)]
    assert gaps == pytest.approx([*DELAYS.nodes.seconds, *[DELAYS.nodes.seconds[-1]] * 4])
    assert reported == [times[-1]]
    assert nodes.nodes.get("node2") is not None


@pytest.mark.usefixtures("at_once")
async def test_retries_start_over_with_the_next_failure(
    home: Home, autojump_clock: MockClock
) -> None:
    """After a success, the next broken file is retried with the first delay again."""
    home.write("node1")
    reported: list[float] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(home.trust.run, lambda: reported.append(trio.current_time()))
        for _ in range(2):
            home.cut()
            with pytest.raises(NodesError):
                await home.trust.load()
            await trio.sleep(100)
            home.write("node1")
            await trio.sleep(100)
            home.cut()
            with pytest.raises(NodesError):
                await home.trust.load()
            home.write("node1")
            failed = trio.current_time()
            await trio.sleep(100)
            assert reported[-1] == failed + DELAYS.nodes.seconds[0]
        nursery.cancel_scope.cancel()


@pytest.mark.usefixtures("at_once")
async def test_load_by_another_task_ends_the_retries(home: Home, autojump_clock: MockClock) -> None:
    """After a successful reload in between, no second load follows and nothing is reported."""
    home.write("node1")
    reported: list[float] = []
    home.cut()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(home.trust.run, lambda: reported.append(trio.current_time()))
        with pytest.raises(NodesError):
            await home.trust.load()
        await wait_all_tasks_blocked()
        home.write("node1")
        await home.trust.load()
        await trio.sleep(100)
        nursery.cancel_scope.cancel()
    assert reported == []


async def test_loads_do_not_overlap(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """The nodes of the load that began last stay, however long an earlier load takes."""
    running = 0
    most = 0

    async def run_sync(function: Callable[[], object], **_options: object) -> object:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await trio.lowlevel.checkpoint()
        running -= 1
        return function()

    monkeypatch.setattr("trio.to_thread.run_sync", run_sync)
    home.write("node1")
    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(home.trust.load)
    assert most == 1


async def test_cancelled_load_does_not_block_the_next(home: Home) -> None:
    """A cancelled load changes nothing and releases the lock."""
    home.write("node1")
    with trio.move_on_after(0):
        await home.trust.load()
    assert not home.knows("node1")
    with trio.fail_after(10):
        await home.trust.load()
    assert home.knows("node1")


async def test_bug_in_loading_is_not_swallowed(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only problems of the files are retried; a bug is raised."""

    def broken(*_arguments: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(module, "load_nodes", broken)
    with pytest.raises(ZeroDivisionError):
        await home.trust.load()


async def test_a_list_that_is_not_needed_may_be_missing(tmp_path: Path) -> None:
    """If no file is verified, a missing nodes list is no error, but a list that vanishes is."""
    nodes, certificates = tmp_path / "nodes.json", tmp_path / "certs.pem"
    trust = CurrentNodes(nodes, certificates, "relay", Metrics(), list_needed=False)
    await trust.load()
    assert not trust.ready.is_set()
    assert trust.trouble is not None
    nodes.write_text('{"n": {"hostname": "h", "policy-server": "relay"}}')
    await trust.load()
    assert trust.ready.is_set()
    nodes.unlink()
    with pytest.raises(NodesError, match="does not exist"):
        await trust.load()
    assert trust.nodes.is_neighbour("n")
