"""The pipeline of run logs as a whole: real spool, nodes and run logs, a database that is faked."""

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from relayd.commands.demo.fleet.runlogs import make_runlog
from relayd.config.main_conf import load_settings
from relayd.fleet.current_nodes import CurrentNodes
from relayd.pipelines.reporting import ReportingPipeline
from relayd.pipelines.workers.job import Examined, Job, Setup
from relayd.pipelines.workers.pool import ThreadExaminer
from relayd.spool.failed.reasons import read_reason, reason_path
from relayd.system.delays import DELAYS, Delays, Steps
from relayd.telemetry.metrics import Metrics
from tests.support.daemon import PATIENCE_S, START, eventually
from tests.support.metrics import value
from tests.support.pipeline import FakeDatabase, name_of, operator
from tests.support.signing import make_key_and_cert, sign_runlog

OLD = make_key_and_cert("node1")
NEW = make_key_and_cert("node1", key=make_key_and_cert("other key").key)


class Gate:
    """An examiner that can be held: what it found is handed out when the gate opens."""

    lanes = 1

    def __init__(self, setup: Setup) -> None:
        self._thread = ThreadExaminer(setup)
        self.open = trio.Event()
        self.open.set()
        self.holding = trio.Event()

    async def examine(self, jobs: Sequence[Job]) -> list[Examined]:
        """As `Examiner.examine`."""
        results = await self._thread.examine(jobs)
        self.holding.set()
        await self.open.wait()
        return results


class Station:
    """A root server without the service around it.

    Attributes:
        stop: set by a test to end the pipeline.
        ended: set when it has.
    """

    def __init__(self, root: Path, delays: Delays) -> None:
        spool = root / "reports"
        self.incoming = spool / "incoming"
        self.failed = spool / "failed"
        self.incoming.mkdir(parents=True)
        self.failed.mkdir()
        self.list_file = root / "nodeslist.json"
        self.certs_file = root / "certs.pem"
        conf = root / "main.conf"
        conf.write_text(
            f"""
            general.node_id = "root"
            processing.reporting = {{ directory = "{spool}", output = "database" }}
            output.database.password = "secret"
            """
        )
        conf.chmod(0o640)
        self.settings, _ = load_settings(root)
        self.metrics = Metrics()
        self.trust = CurrentNodes(self.list_file, self.certs_file, "root", self.metrics)
        self.examiner = Gate(Setup(str(self.incoming), 2**20, frozenset()))
        self.database = FakeDatabase()
        self.reporting = ReportingPipeline(
            self.settings, self.trust, self.metrics, self.examiner, self.database, delays
        )
        self.stop = trio.Event()
        self.ended = trio.Event()

    async def run(self) -> None:
        """`ReportingPipeline.run`."""
        await self.reporting.run(self.stop)
        self.ended.set()

    def write_nodes(self, *node_ids: str, certificate: bytes = OLD.cert_pem) -> None:
        """Writes both files; all nodes have the same certificate."""
        nodes = {n: {"hostname": n, "policy-server": "root"} for n in ("root", *node_ids)}
        self.list_file.write_text(json.dumps(nodes))
        self.certs_file.write_bytes(certificate)

    async def reload(self, *node_ids: str, certificate: bytes = OLD.cert_pem) -> None:
        """Puts nodes in force, as the service does."""
        self.write_nodes(*node_ids, certificate=certificate)
        await self.trust.load()
        self.reporting.wake("nodes")

    def send(self, number: int = 0, key: object = OLD) -> str:
        """Uploads a run log of node1."""
        text = make_runlog("node1", START, reports=3)
        name = name_of(number)
        temporary = self.incoming / f".davfs.tmp{number}"
        temporary.write_bytes(sign_runlog(text, key))  # type: ignore[arg-type]
        temporary.rename(self.incoming / name)
        return name

    def names(self) -> list[str]:
        """What is in `incoming`."""
        return sorted(path.name for path in self.incoming.iterdir())

    def reasons(self) -> list[str]:
        """Why files are in `failed`."""
        records = [read_reason(reason_path(path)) for path in self.failed.iterdir()]
        return [record.reason.value for record in records if record is not None]

    async def stored(self, count: int) -> None:
        """Waits until so many run logs were written and their files are gone."""
        await eventually(lambda: sum(map(len, self.database.batches)) == count)
        await eventually(lambda: not self.names(), lambda: str(self.names()))
        await eventually(lambda: self.in_flight == 0)

    @property
    def in_flight(self) -> float:
        """The number of files in flight, according to the metrics."""
        return value(self.metrics.render(), "rudder_relayd_in_flight")


@asynccontextmanager
async def open_station(root: Path, delays: Delays = DELAYS) -> AsyncIterator[Station]:
    station = Station(root, delays)
    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(station.run)
            yield station
            nursery.cancel_scope.cancel()


@pytest.mark.fault("G2")
@pytest.mark.history(56)
async def test_run_logs_wait_for_the_first_nodes_list(tmp_path: Path) -> None:
    """Without a list nothing is judged; as soon as there is one, what waited is inserted."""
    async with open_station(tmp_path) as station:
        names = [station.send(number) for number in range(3)]
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert station.names() == names
        assert station.in_flight == 0
        await station.reload("node1")
        await station.stored(3)
        assert station.reasons() == []


async def test_stop_before_there_are_nodes_ends_at_once(tmp_path: Path) -> None:
    """A pipeline that never began has nothing to drain; its files stay."""
    async with open_station(tmp_path) as station:
        name = station.send()
        station.stop.set()
        await station.ended.wait()
        assert station.names() == [name]


@pytest.mark.fault("G3")
@pytest.mark.history(2)
async def test_run_log_of_an_unknown_node_comes_back(tmp_path: Path) -> None:
    """It is refused, others go on, and the reload that knows its node brings it back by itself."""
    async with open_station(tmp_path) as station:
        await station.reload("node2")
        station.send()
        await eventually(lambda: station.reasons() == ["unknown_node"])
        await station.reload("node1", "node2")
        await station.stored(1)
        assert station.reasons() == []


@pytest.mark.fault("C21")
async def test_run_log_without_a_certificate_comes_back(tmp_path: Path) -> None:
    """A known node whose certificate is missing: the same, when its certificate is there."""
    async with open_station(tmp_path) as station:
        await station.reload("node1", certificate=b"")
        station.send()
        await eventually(lambda: station.reasons() == ["no_certificate"])
        await station.reload("node1")
        await station.stored(1)


async def test_refused_run_log_stays_while_its_node_is_the_same(tmp_path: Path) -> None:
    """A reload that changes nothing about a node does not bring its forged run logs back."""
    async with open_station(tmp_path) as station:
        await station.reload("node1")
        station.send(key=NEW)
        await eventually(lambda: station.reasons() == ["unknown_signer"])
        await station.reload("node1", "node2")
        station.send(1)
        await station.stored(1)
        assert station.reasons() == ["unknown_signer"]


async def test_reload_during_an_examination_loses_no_verdict(tmp_path: Path) -> None:
    """A run log examined with a former certificate is examined again without another reload."""
    async with open_station(tmp_path) as station:
        await station.reload("node1")
        station.examiner.open = trio.Event()
        station.send(key=NEW)
        await station.examiner.holding.wait()
        await station.reload("node1", certificate=NEW.cert_pem)
        await trio.testing.wait_all_tasks_blocked(0.05)
        station.examiner.open.set()
        await station.stored(1)
        assert station.reasons() == []


async def test_stop_drains_what_was_taken_up(tmp_path: Path) -> None:
    """Run logs in flight at the stop are written and removed before the pipeline ends."""
    async with open_station(tmp_path) as station:
        await station.reload("node1")
        station.examiner.open = trio.Event()
        station.send()
        await station.examiner.holding.wait()
        assert station.in_flight == 1
        station.stop.set()
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert not station.ended.is_set()
        station.examiner.open.set()
        await station.ended.wait()
        assert station.names() == []
        assert station.in_flight == 0


async def test_stop_leaves_what_the_database_does_not_take(tmp_path: Path) -> None:
    """With the database away a stop waits for nobody: the files stay, none is refused."""
    async with open_station(tmp_path) as station:
        station.database.failures = [operator() for _ in range(1000)]
        station.database.probes = [operator() for _ in range(1000)]
        await station.reload("node1")
        name = station.send()
        await eventually(lambda: station.database.batches != [])
        station.stop.set()
        await station.ended.wait()
        assert station.names() == [name]
        assert station.reasons() == []
        assert station.in_flight == 0


@pytest.mark.parametrize("how", ["nodes", "settings"])
async def test_reload_ends_a_wait_for_the_database(tmp_path: Path, how: str) -> None:
    """An operator who fixes the database and reloads does not wait for the next attempt."""
    async with open_station(tmp_path, Delays(database_operator=Steps((3600.0,)))) as station:
        # The reload that makes the nodes known ends the first wait.
        station.database.failures = [operator(), operator()]
        await station.reload("node1")
        station.send()
        await eventually(lambda: len(station.database.batches) == 2)
        if how == "nodes":
            station.reporting.wake("nodes")
        else:
            station.reporting.reconfigure(station.settings)
            assert station.database.parameters[0]["password"] == "secret"
        await eventually(lambda: not station.names())
