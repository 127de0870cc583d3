"""Nodes list, certificates and configuration that change under a running relayd."""

import json
import re
import signal
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

import pytest
import trio

from tests.support.daemon import Daemon, Site, eventually, open_daemon, replace
from tests.support.postgres import Database
from tests.support.signing import SigningNode, make_key_and_cert
from tests.support.stored import check_stored

OLD, NEW = "node1", "node2"
RELOAD = "/rudder/relay-api/1/system/reload"
STATUS = "/rudder/relay-api/1/system/status"


pytestmark = pytest.mark.site(nodes=[OLD, NEW])


@pytest.fixture
def site(site: Site) -> Site:
    """Return a site of two nodes; its nodes list has only the first."""
    site.write_nodes([OLD])
    return site


async def reload_by_signal(daemon: Daemon) -> None:
    """Send SIGHUP and wait for the outcome."""
    seen = len(daemon.lines)
    daemon.process.send_signal(signal.SIGHUP)
    await daemon.saw("main: (reloaded|reload failed)", since=seen)


async def reload_by_request(daemon: Daemon) -> None:
    """Asks the API."""
    status, body = await daemon.post(RELOAD)
    assert (status, json.loads(body)["result"]) == (200, "success")


Reload = Callable[[Daemon], Awaitable[None]]
either_reload = pytest.mark.parametrize("reload", [reload_by_signal, reload_by_request])


def cut(path: Path) -> None:
    """Leaves the file as it is in the middle of being written."""
    data = path.read_bytes()
    replace(path, data[: len(data) - 20])


def empty(path: Path) -> None:
    """Leaves the file without a byte."""
    replace(path, b"")


def make_odd(path: Path) -> None:
    """Leaves a sound file of another format: none of its entries can be used."""
    nodes = json.loads(path.read_bytes())
    replace(path, json.dumps({name: {"host": name} for name in nodes}).encode())


def listed(site: Site) -> Path:
    """Return the nodes list."""
    return site.nodes_list


def certified(site: Site) -> Path:
    """Return the certificates file."""
    return site.certificates


@pytest.mark.fault("F6", "F60", "G1")
async def test_half_written_file_at_reload(site: Site, database: Database) -> None:
    """The previous nodes stay in use, with an error, until the file is whole; no second signal."""
    damages: list[tuple[Path, Callable[[Path], None]]] = [
        (site.nodes_list, cut),
        (site.nodes_list, empty),
        (site.nodes_list, make_odd),
        (site.certificates, cut),
        (site.certificates, empty),
    ]
    async with open_daemon(site) as daemon:
        for number, (path, damage) in enumerate(damages):
            site.write_nodes([OLD])
            await reload_by_request(daemon)
            site.write_nodes([OLD, NEW])
            damage(path)
            await keeps_previous_nodes(site, daemon, path, 2 * number)
    check_stored(database.query, {((OLD, NEW)[number % 2], number) for number in range(10)})


async def keeps_previous_nodes(site: Site, daemon: Daemon, path: Path, number: int) -> None:
    """Reload with a damaged file, then repair it, and send a run log of each node."""
    seen = len(daemon.lines)
    status, body = await daemon.post(RELOAD)
    assert status == 500
    assert str(path) in json.loads(body)["errorDetails"]
    pattern = rf"ERROR nodes: nodes cannot be loaded.*{path}.*previous nodes"
    await daemon.saw(pattern, since=seen)
    _, body = await daemon.get(STATUS)
    assert json.loads(body)["data"]["configuration"]["status"] == "error"
    site.send(OLD, number)
    name = site.send(NEW, number + 1)
    await daemon.settled()
    assert site.refused() == {name: "unknown_node"}
    site.write_nodes([OLD, NEW])
    await eventually(lambda: not site.refused())
    await daemon.settled()
    _, body = await daemon.get(STATUS)
    assert json.loads(body)["data"]["configuration"] == {"status": "success"}


@pytest.mark.fault("G1", "G2")
@pytest.mark.history(56)
@pytest.mark.parametrize(
    ("which", "damage"),
    [(listed, Path.unlink), (listed, cut), (listed, empty), (certified, cut)],
)
async def test_nodes_not_ready_at_start(
    site: Site,
    database: Database,
    which: Callable[[Site], Path],
    damage: Callable[[Path], None],
) -> None:
    """Without usable nodes relayd starts, judges no file, says why, and goes on by itself."""
    damage(which(site))
    waiting = [site.send(OLD, 0), site.send(NEW, 1)]
    async with open_daemon(site) as daemon:
        await daemon.saw(rf"ERROR nodes: nodes cannot be loaded.*{which(site)}.*files wait")
        waiting.append(site.send(OLD, 2))
        _, body = await daemon.get(STATUS)
        answer = json.loads(body)["data"]["configuration"]
        assert answer["status"] == "error"
        assert str(which(site)) in answer["details"]
        assert site.waiting() == sorted(waiting)
        site.write_nodes([OLD, NEW])
        await daemon.settled()
    check_stored(database.query, {(OLD, 0), (NEW, 1), (OLD, 2)})
    assert site.refused() == {}


@either_reload
@pytest.mark.parametrize(
    ("listing", "reason", "counted"),
    [
        pytest.param([OLD], "unknown_node", "invalid", marks=pytest.mark.fault("G3")),
        pytest.param([OLD, NEW], "no_certificate", "error", marks=pytest.mark.fault("C21")),
    ],
)
@pytest.mark.history(57)
async def test_run_log_that_comes_before_its_node(
    site: Site, database: Database, reload: Reload, listing: list[str], reason: str, counted: str
) -> None:
    """A run log refused for want of node or certificate is stored after the reload that has it."""
    site.write_nodes(listing)
    replace(site.certificates, site.nodes[OLD].cert_pem)
    forged = site.upload(site.name(NEW, 9), b"no signature").name
    async with open_daemon(site) as daemon:
        names = [site.send(NEW, number) for number in range(3)]
        await daemon.settled()
        assert site.refused() == dict.fromkeys([*names, forged], reason)
        assert await daemon.metric("rudder_relayd_reports_total", status=counted) == 4
        await reload(daemon)
        assert site.refused() == dict.fromkeys([*names, forged], reason)
        site.write_nodes([OLD, NEW])
        await reload(daemon)
        await eventually(lambda: site.refused() == {forged: "mime"})
        await daemon.settled()
        assert await daemon.metric("rudder_relayd_sub_nodes_total") == 3
        site.send(NEW, 3)
        await daemon.settled()
    check_stored(database.query, {(NEW, number) for number in range(4)})
    assert site.refused() == {forged: "mime"}


@either_reload
async def test_rotated_certificate(site: Site, database: Database, reload: Reload) -> None:
    """A run log of a new certificate comes back from `failed` when that certificate is known."""
    async with open_daemon(site) as daemon:
        former = site.nodes[OLD]
        key = make_key_and_cert("rotated").key
        site.nodes[OLD] = make_key_and_cert(OLD, key=key)
        name = site.send(OLD, 0)
        await daemon.settled()
        assert site.refused() == {name: "unknown_signer"}
        replace(site.certificates, former.cert_pem + site.nodes[OLD].cert_pem)
        await reload(daemon)
        await eventually(lambda: not site.refused())
        await daemon.settled()
        site.nodes[OLD] = former
        site.send(OLD, 1)
        await daemon.settled()
    check_stored(database.query, {(OLD, 0), (OLD, 1)})


def one_key_fleet(names: Iterable[str]) -> dict[str, SigningNode]:
    """Nodes that share a key, which is what takes time to make."""
    key = make_key_and_cert(OLD).key
    return {name: make_key_and_cert(name, key=key) for name in names}


@pytest.mark.fault("G5")
@pytest.mark.parametrize(
    "reloads", [100, pytest.param(1000, marks=[pytest.mark.torture, pytest.mark.timeout(900)])]
)
async def test_reloads_during_traffic(site: Site, database: Database, reloads: int) -> None:
    """Each reload adds a node whose run logs came just before and come just after it."""
    site.nodes = one_key_fleet([OLD, *(f"new{number}" for number in range(reloads))])
    known = [OLD]
    runs = set()
    never = set()
    async with open_daemon(site) as daemon:
        for number in range(reloads):
            known.append(f"new{number}")
            early, late, steady = (known[-1], 0), (known[-1], 1), (OLD, number)
            name = site.send(*early)
            if number % 10 == 0:
                await daemon.saw(f"moved to failed.*{re.escape(name)}")
            site.write_nodes(known)
            await daemon.post(RELOAD)
            never |= {site.send(*late), site.send(*steady)}
            runs |= {early, late, steady}
        await daemon.settled()
        await eventually(lambda: not site.refused(), lambda: str(site.refused()))
        await daemon.settled()
        refusals = [line for line in daemon.lines if "moved to failed" in line]
        assert refusals
        assert not never & set(re.findall(r" file=(\S+)", "\n".join(refusals)))
    check_stored(database.query, runs)


@pytest.mark.fault("A22")
async def test_a_thousand_reloads_at_once(site: Site, database: Database) -> None:
    """Requests that come while a reload goes on share the next one; each is answered."""
    async with open_daemon(site) as daemon:
        waiting = trio.CapacityLimiter(50)
        answers: list[int] = []

        async def ask() -> None:
            async with waiting:
                answers.append((await daemon.post(RELOAD))[0])

        async with trio.open_nursery() as nursery:
            for _ in range(1000):
                nursery.start_soon(ask)
            for number in range(100):
                site.send(OLD, number)
                daemon.process.send_signal(signal.SIGHUP)
                await trio.sleep(0)
        await daemon.settled()
        assert answers == [200] * 1000
        done = sum("main: reloaded" in line for line in daemon.lines)
        assert done < 550
    check_stored(database.query, {(OLD, number) for number in range(100)})


async def test_logging_is_reloaded(site: Site) -> None:
    """Another level in `logging.conf`, also of one component, is in force after the reload."""
    logging = site.conf / "logging.conf"
    async with open_daemon(site) as daemon:
        logging.write_text('[general]\nlevel = "error"\nfilter = "disposal=warn"\n')
        await daemon.post(RELOAD)
        site.upload("first.log", b"x")
        await daemon.saw("WARN  disposal: refused.*first.log")
        silent = len(daemon.lines)
        site.send(OLD, 0)
        await daemon.settled()
        site.upload("second.log", b"x")
        await daemon.saw("WARN  disposal: refused.*second.log")
        assert len(daemon.lines) == silent + 1
        logging.write_text('[general]\nlevel = "info"\n')
        await daemon.post(RELOAD)
        await daemon.saw("INFO  main: reloaded", since=silent)


async def test_changed_key_that_needs_a_restart(site: Site) -> None:
    """A reload names the changed keys that it does not take in, and only those, in one line."""
    async with open_daemon(site) as daemon:
        site.extra["processing.reporting.cleanup"] = 'frequency = "2h"'
        site.extra["general"] = "https_port = 4443"
        site.write_conf()
        await reload_by_signal(daemon)
        (warning,) = daemon.lines_of("need a restart")
        assert warning.endswith('keys="general.https_port, processing.reporting.cleanup.frequency"')


@pytest.mark.parametrize("name", ["main.conf", "logging.conf"])
async def test_failed_reload_changes_nothing(site: Site, database: Database, name: str) -> None:
    """A broken configuration file is reported, and nothing of the reload takes effect."""
    async with open_daemon(site) as daemon:
        path = site.conf / name
        whole = path.read_text()
        path.write_text(f"{whole}\n[general")
        site.write_nodes([OLD, NEW])
        await reload_by_signal(daemon)
        await daemon.saw(f"ERROR main: reload failed; nothing was changed.*{path}")
        early = site.send(NEW, 0)
        await daemon.settled()
        assert site.refused() == {early: "unknown_node"}
        path.write_text(whole)
        await reload_by_signal(daemon)
        await eventually(lambda: not site.refused())
        await daemon.settled()
    check_stored(database.query, {(NEW, 0)})
