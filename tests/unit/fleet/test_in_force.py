"""The nodes in force, loaded from real files."""

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
from relayd.fleet import in_force as module
from relayd.fleet.in_force import Trust
from relayd.system.delays import DELAYS
from relayd.telemetry.metrics import Metrics
from tests.support.signing import make_key_and_cert

#: Node id → its key and certificate, always the same ones.
node_of = functools.cache(make_key_and_cert)


class Home:
    """The two files, and a `Trust` that reads them."""

    def __init__(self, root: Path) -> None:
        self.list_file = root / "nodeslist.json"
        self.certs_file = root / "allnodescerts.pem"
        self.metrics = Metrics()
        self.trust = Trust(self.list_file, self.certs_file, "root", self.metrics)

    def write(self, *node_ids: str, behind: Sequence[str] = ()) -> None:
        """Writes neighbours with a certificate each, and nodes behind a relay without one."""
        nodes = {n: {"hostname": n, "policy-server": "root"} for n in ("root", *node_ids)}
        nodes |= {n: {"hostname": n, "policy-server": "relay"} for n in behind}
        self.list_file.write_text(json.dumps(nodes))
        self.certs_file.write_bytes(b"".join(node_of(n).cert_pem for n in node_ids))

    def cut(self) -> None:
        """Leaves the nodes list as a writer does that has not finished."""
        self.list_file.write_text(self.list_file.read_text()[:-5])

    def knows(self, node_id: str) -> bool:
        """Whether the node is in force."""
        return self.trust.nodes.get(node_id) is not None

    def gauges(self) -> list[float]:
        """Neighbours, all nodes, certificates expired and not valid yet."""
        m = self.metrics
        gauges = (
            m.managed_nodes,
            m.sub_nodes,
            m.certificate_expired,
            m.certificate_not_yet_valid,
        )
        return [float(gauge._value.get()) for gauge in gauges]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loads in the event loop, so that a clock that jumps does not pass a thread."""

    async def run_sync(function: Callable[[], object], **_options: object) -> object:
        await trio.lowlevel.checkpoint()
        return function()

    monkeypatch.setattr("trio.to_thread.run_sync", run_sync)


async def test_load_puts_both_files_in_force(home: Home) -> None:
    """Nodes and certificates are there, the gauges tell how many, and files may be judged."""
    home.write("node1", "node2", behind=["node3"])
    assert not home.trust.ready.is_set()
    await home.trust.load()
    assert home.trust.ready.is_set()
    assert home.trust.trouble is None
    assert home.trust.nodes.certificates("node1") == (node_of("node1").certificate,)
    assert home.gauges() == [3, 4, 0, 0]


@pytest.mark.fault("G1")
async def test_broken_list_leaves_the_former_nodes_in_force(home: Home) -> None:
    """A half-written file changes nothing, is told once, and the error names it."""
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
    assert (line["log_level"], line["effect"]) == ("error", "the former nodes stay in force")


@pytest.mark.fault("G2")
@pytest.mark.history(56)
async def test_missing_list_at_start_is_not_an_empty_one(home: Home) -> None:
    """No list, no judgement: it is not ready, and tells so; certificates alone make no node."""
    home.write("node1")
    home.list_file.unlink()
    with capture_logs() as logs, pytest.raises(NodesError, match="is not there"):
        await home.trust.load()
    assert not home.trust.ready.is_set()
    (line,) = logs
    assert line["effect"] == "files wait"


async def test_list_that_vanishes_later_leaves_the_former_nodes(home: Home) -> None:
    """A missing list at a reload is a list that is being replaced, not the end of all nodes."""
    home.write("node1")
    await home.trust.load()
    home.list_file.unlink()
    with pytest.raises(NodesError):
        await home.trust.load()
    assert home.knows("node1")


async def test_missing_certificates_count_as_none(home: Home) -> None:
    """Nodes without a certificates file are known; their run logs are refused with that reason."""
    home.write("node1")
    home.certs_file.unlink()
    await home.trust.load()
    assert home.trust.ready.is_set()
    assert home.trust.nodes.certificates("node1") == ()


async def test_expired_certificates_are_trusted_and_counted(home: Home) -> None:
    """An expired pin is still a pin: a gauge and a warning tell about it."""
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
    """A pin whose validity has not begun is a pin too: a gauge and a warning tell about it."""
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
    assert "not valid yet" in line["event"]


async def test_token_follows_the_nodes_in_force(home: Home) -> None:
    """It changes with what is known of a node, and only with that."""
    home.write("node1")
    unknown = home.trust.token("node1")
    await home.trust.load()
    known = home.trust.token("node1")
    home.write("node1", "node2")
    await home.trust.load()
    assert unknown != known == home.trust.token("node1")


@pytest.mark.usefixtures("at_once")
async def test_broken_list_is_tried_again_by_itself(home: Home, autojump_clock: MockClock) -> None:
    """Soon at first, then every ten seconds, until it loads; then whoever cares is told once."""
    home.write("node1")
    await home.trust.load()
    home.cut()
    times: list[float] = []
    told: list[float] = []
    real = home.trust.load

    async def load() -> None:
        times.append(trio.current_time())
        if len(times) == 8:
            home.write("node1", "node2")
        await real()

    home.trust.load = load  # type: ignore[method-assign]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(home.trust.run, lambda: told.append(trio.current_time()))
        await trio.sleep(1000)
        assert times == []
        with pytest.raises(NodesError):
            await real()
        failed = trio.current_time()
        await trio.sleep(1000)
        nursery.cancel_scope.cancel()
    gaps = [b - a for a, b in zip([failed, *times], times, strict=False)]
    assert gaps == pytest.approx([*DELAYS.nodes.seconds, *[DELAYS.nodes.seconds[-1]] * 4])
    assert told == [times[-1]]
    assert home.knows("node2")


@pytest.mark.usefixtures("at_once")
async def test_retries_start_over_with_the_next_trouble(
    home: Home, autojump_clock: MockClock
) -> None:
    """After a success the next broken file is looked at again soon."""
    home.write("node1")
    told: list[float] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(home.trust.run, lambda: told.append(trio.current_time()))
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
            assert told[-1] == failed + DELAYS.nodes.seconds[0]
        nursery.cancel_scope.cancel()


@pytest.mark.usefixtures("at_once")
async def test_load_by_someone_else_ends_the_retries(home: Home, autojump_clock: MockClock) -> None:
    """A reload that goes well meanwhile is its caller's to tell about: no second load follows."""
    home.write("node1")
    told: list[float] = []
    home.cut()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(home.trust.run, lambda: told.append(trio.current_time()))
        with pytest.raises(NodesError):
            await home.trust.load()
        await wait_all_tasks_blocked()
        home.write("node1")
        await home.trust.load()
        await trio.sleep(100)
        nursery.cancel_scope.cancel()
    assert told == []


async def test_loads_do_not_overlap(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """The load that began last is the one whose nodes stay, however long an earlier one takes."""
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
    """It is done or not at all, and the lock is free."""
    home.write("node1")
    with trio.move_on_after(0):
        await home.trust.load()
    assert not home.knows("node1")
    with trio.fail_after(10):
        await home.trust.load()
    assert home.knows("node1")


async def test_bug_in_loading_is_not_swallowed(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what is wrong with the files is tried again."""

    def broken(*_arguments: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(module, "load_nodes", broken)
    with pytest.raises(ZeroDivisionError):
        await home.trust.load()


async def test_a_list_that_is_not_needed_may_be_missing(tmp_path: Path) -> None:
    """Where files are not judged by nodes, no nodes list is no error; once there, it must stay."""
    nodes, certificates = tmp_path / "nodes.json", tmp_path / "certs.pem"
    trust = Trust(nodes, certificates, "relay", Metrics(), list_needed=False)
    await trust.load()
    assert not trust.ready.is_set()
    assert trust.trouble is not None
    nodes.write_text('{"n": {"hostname": "h", "policy-server": "relay"}}')
    await trust.load()
    assert trust.ready.is_set()
    nodes.unlink()
    with pytest.raises(NodesError, match="is not there"):
        await trust.load()
    assert trust.nodes.is_neighbour("n")
