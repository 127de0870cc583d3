"""How relayd starts, and how it says that it cannot."""

import errno
import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest
import trio

from tests.support.daemon import Site, fetch, make_site, open_daemon
from tests.support.ledger import Ledger
from tests.support.moments import STOP, environment
from tests.support.postgres import Database
from tests.support.project import CONF
from tests.support.strace import inject
from tests.support.wrappers import BOUND_BY_MODES

API: Final = "/rudder/relay-api/1"


#: All uploads are renamed into place.
pytestmark = pytest.mark.site(extra={"processing.reporting": 'settle_time = "0s"'})


async def fails_to_start(site: Site, wrapper: tuple[str, ...] = ()) -> tuple[int, str]:
    """Start relayd and wait for its end: exit code and the only line that it wrote."""
    async with open_daemon(site, wrapper=wrapper, ready=None) as daemon:
        with trio.fail_after(60):
            code = await daemon.process.wait()
            await daemon.ended.wait()
        (line,) = [line for line in daemon.lines if not re.match(r"\d{4}-\d\d-\d\dT", line)]
        return code, line


@pytest.mark.fault("S21")
async def test_second_daemon_on_a_spool_does_not_start(
    site: Site, ledger: Ledger, database: Database
) -> None:
    """It ends with 75 and one line that names the directory; the first one goes on."""
    async with open_daemon(site) as first:
        other = make_site(site.root / "other", database.rudder, site.nodes)
        other.extra["processing.reporting"] = f'directory = "{site.root / "reports"}"'
        other.write()
        code, line = await fails_to_start(other)
        assert code == os.EX_TEMPFAIL
        assert line == f"error: {site.incoming} is already in use by another relayd"
        ledger.send()
        await first.settled()
        assert await first.stop() == 0
    await ledger.balance(database)


#: Connects standard output and error to what passes for the journal.
JOURNAL: Final = (
    "sh", "-c", 'JOURNAL_STREAM=$(stat -Lc %d:%i /dev/stderr) exec "$@"', "sh",
)  # fmt: skip
JSON: Final = '[general]\nformat = "json"\n'


@pytest.mark.fault("F31")
@pytest.mark.parametrize(
    ("logging", "main", "env", "wrapper", "form"),
    [
        pytest.param("", "[general", {}, JOURNAL, r"<3>error: .*main\.conf.*", id="journal"),
        pytest.param(JSON, "[general", {}, (), r"\{.*\}", id="JSON"),
        pytest.param(JSON, None, {}, JOURNAL, r"<3>\{.*\}", id="JSON in the journal"),
        pytest.param("[x", "", {}, JOURNAL, "<3>error: .*", id="format unknown"),
        pytest.param("[x", "", {"RELAYD_LOG_FORMAT": "json"}, (), r"\{.*\}", id="by variable"),
    ],
)
async def test_start_error_is_a_line_of_the_log(
    site: Site,
    logging: str,
    main: str | None,
    env: dict[str, str],
    wrapper: tuple[str, ...],
    form: str,
) -> None:
    """A start error has the log's format and priority, or a defined one if that is unknown."""
    (site.conf / "logging.conf").write_text(logging)
    if main is None:
        (site.conf / "main.conf").unlink()
    else:
        (site.conf / "main.conf").write_text(main)
    async with open_daemon(site, env=env, wrapper=wrapper, ready=None) as daemon:
        await daemon.process.wait()
        await daemon.ended.wait()
    assert daemon.lines
    for line in daemon.lines:
        assert re.fullmatch(form, line)
        if "{" in line:
            document = json.loads(line.removeprefix("<3>"))
            assert (document["level"], document["event"]) == ("error", "cannot start")
            assert document["detail"]


@pytest.mark.fault("F66")
async def test_stop_at_the_end_of_the_start_is_silent(site: Site) -> None:
    """A signal that arrives before the event loop waits for it ends relayd without a traceback."""
    options = ("-D", "-f", "-qq", *inject("flock", "signal=SIGINT:when=1"))
    async with open_daemon(site, wrapper=("strace", *options), ready=None) as daemon:
        with trio.fail_after(60):
            assert await daemon.process.wait() == 0
            await daemon.ended.wait()
        assert [line for line in daemon.lines if "DEBUG" not in line] == []


@pytest.mark.fault("F66")
@pytest.mark.parametrize(
    ("command", "until"),
    [
        (["run"], "relayd.service.tree"),
        (["check"], "relayd.commands.check.command"),
        (["inspect", "-c", str(CONF), "x"], "relayd.commands.inspect.command"),
        (["demo"], "relayd.commands.demo.run"),
    ],
)
def test_stop_at_any_moment_of_the_start_is_silent(
    tmp_path: Path, command: list[str], until: str
) -> None:
    """While modules are imported, a signal ends any command without a traceback.

    It does so by its default action, later by that of the command: the daemon ends with 0, the demo
    says that nothing was begun.
    """
    later = {
        ("run", signal.SIGINT): 0,
        ("run", signal.SIGTERM): 0,
        ("demo", signal.SIGINT): 130,
    }
    done = subprocess.run(
        [sys.executable, "-m", "relayd", *command],
        env={**os.environ, **environment(tmp_path / "moments", until, every=10)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    moments = [line.split() for line in done.stdout.splitlines() if line[0].isdigit()]
    assert len(moments) > 10
    for number in STOP:
        codes = [int(code) for sent, code, _ in moments if int(sent) == number]
        own = later.get((command[0], number))
        known = len(codes) if own is None else codes.index(own)
        assert known > 0
        assert codes == [-number] * known + [own] * (len(codes) - known)


@pytest.mark.fault("F66")
@pytest.mark.site(nodes=())
async def test_reload_at_any_moment_of_the_start_is_remembered(site: Site) -> None:
    """SIGHUP during the start, before and after a change to UTF-8, ends nothing and reloads."""
    latin = {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    env = environment(site.root / "moments", "relayd.service.tree")
    async with open_daemon(site, env=env | latin) as daemon:
        await daemon.saw("main: reloaded")
        assert await daemon.stop() == 0


@pytest.mark.fault("F66")
async def test_stop_while_the_nodes_list_cannot_be_read_to_its_end(site: Site) -> None:
    """A nodes list whose reading hangs, as in a dead file system, delays neither start nor stop."""
    site.nodes_list.unlink()
    os.mkfifo(site.nodes_list)
    async with open_daemon(site, ready=None) as daemon:
        await daemon.answers()
        await daemon.saw("the nodes are still being read; files that depend on them wait")
        await daemon.saw("started")
        assert await daemon.stop() == 0
        await daemon.ended.wait()
    assert not any("Traceback" in line for line in daemon.lines)


@pytest.mark.fault("A24", "F60")
@pytest.mark.history(62)
async def test_port_in_use_is_tried_again(site: Site) -> None:
    """What may go away by itself ends with a code that every unit restarts; one line says why."""
    with socket.create_server(("127.0.0.1", site.port)):
        code, line = await fails_to_start(site)
    assert code == os.EX_TEMPFAIL
    assert line == f"error: cannot listen on 127.0.0.1:{site.port}: Address already in use"


@pytest.mark.fault("A24")
@pytest.mark.history(62)
async def test_senseless_address_is_a_configuration_error(site: Site) -> None:
    """It ends with 2 and one line that names file and key."""
    site.extra["general"] = 'listen = "nowhere"'
    site.write()
    code, line = await fails_to_start(site)
    assert code == 2
    assert str(site.conf / "main.conf") in line
    assert "general.listen" in line


@pytest.mark.history(62)
async def test_missing_configuration_is_a_start_error(site: Site) -> None:
    """It ends with 3 and one line that names the file."""
    path = site.conf / "main.conf"
    path.unlink()
    code, line = await fails_to_start(site)
    assert code == 3
    assert str(path) in line


@pytest.mark.history(64)
async def test_listens_on_a_host_name(site: Site) -> None:
    """A host name in `listen` is resolved, and relayd answers there."""
    site.extra["general"] = f'listen = "localhost:{site.port}"'
    site.write()
    async with open_daemon(site) as daemon:
        url = f"http://localhost:{site.port}{API}/system/info"
        assert (await trio.to_thread.run_sync(fetch, url))[0] == 200
        assert await daemon.stop() == 0


@pytest.mark.fault("L9")
async def test_missing_directories_are_made(site: Site, database: Database) -> None:
    """Without any spool directory relayd starts and takes files at once."""
    site.incoming.rmdir()
    site.incoming.parent.rmdir()
    ledger = Ledger(site)
    async with open_daemon(site) as daemon:
        assert site.incoming.is_dir()
        assert site.failed.is_dir()
        ledger.send()
        ledger.send_forged()
        await daemon.settled()
        assert await daemon.stop() == 0
    await ledger.balance(database)


@pytest.mark.fault("L9")
@pytest.mark.parametrize("which", ["reports", "incoming", "failed"])
async def test_directory_that_cannot_be_used_is_a_start_error(
    site: Site, ledger: Ledger, which: str
) -> None:
    """It ends with 3 and one line that names the directory; nothing is changed."""
    directory = {"incoming": site.incoming, "failed": site.failed}.get(which, site.incoming.parent)
    directory.mkdir(exist_ok=True)
    ledger.send()
    directory.chmod(0)
    try:
        code, line = await fails_to_start(site, BOUND_BY_MODES)
    finally:
        directory.chmod(0o750)
    assert code == 3
    assert line.startswith(f"error: spool directory {directory}")
    assert len(site.waiting()) == 1


@pytest.mark.fault("F2")
async def test_only_the_directories_with_files_are_needed(
    site: Site, ledger: Ledger, database: Database
) -> None:
    """Relayd writes nothing next to `incoming` and `failed`: their parent may be someone else's."""
    site.failed.mkdir()
    spool = site.incoming.parent
    spool.chmod(0o555)
    ledger.send()
    ledger.send_forged()
    async with open_daemon(site, wrapper=BOUND_BY_MODES) as daemon:
        await daemon.settled()
        assert await daemon.stop() == 0
    assert sorted(path.name for path in spool.iterdir()) == ["failed", "incoming"]
    await ledger.balance(database)


@pytest.mark.fault("F26")
async def test_lock_follows_the_directory_that_is_watched(
    site: Site, ledger: Ledger, database: Database
) -> None:
    """A spool that is moved and made again, as a whole or in part, stays closed to a second one."""
    async with open_daemon(site, ready=r"watch: watching") as first:
        other = make_site(site.root / "other", database.rudder, site.nodes)
        other.extra["processing.reporting"] = f'directory = "{site.root / "reports"}"'
        other.write()
        for number, path in enumerate((site.incoming.parent, site.incoming)):
            since = len(first.lines)
            path.rename(site.root / f"old{number}")
            site.incoming.mkdir(parents=True)
            await first.saw("directory is watched again", since=since)
            code, line = await fails_to_start(other)
            assert code == os.EX_TEMPFAIL
            assert line.endswith("is already in use by another relayd")
        ledger.send()
        await first.settled()
        assert await first.stop() == 0
    await ledger.balance(database)


@pytest.mark.fault("L9")
async def test_directory_that_cannot_be_made_is_a_start_error(site: Site) -> None:
    """A file in the place of the spool: 3 and one line that names it."""
    spool = site.incoming.parent
    site.incoming.rmdir()
    spool.rmdir()
    spool.write_text("not a directory")
    code, line = await fails_to_start(site)
    assert code == 3
    assert line.startswith(f"error: spool directory {site.incoming} cannot be created")
    assert os.strerror(errno.EEXIST) in line or os.strerror(errno.ENOTDIR) in line
