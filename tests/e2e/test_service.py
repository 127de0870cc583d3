"""How a running relayd stops and reloads."""

import os
import signal
import socket

import pytest
import trio

from tests.support.daemon import PATIENCE_S, Site, eventually, open_daemon

RELOAD = "/rudder/relay-api/1/system/reload"


pytestmark = pytest.mark.site(nodes=["node1"])


class Stuck:
    """A nodes list that blocks its reader, as on a file system that does not answer."""

    def __init__(self, site: Site) -> None:
        self._path = site.nodes_list
        self._content = self._path.read_bytes()
        self._path.unlink()
        os.mkfifo(self._path)

    async def is_read(self) -> None:
        """Wait until a reader is blocked."""
        with trio.fail_after(PATIENCE_S):
            while not self._try_to_open():
                await trio.sleep(0.01)

    def _try_to_open(self) -> bool:
        try:
            self._descriptor = os.open(self._path, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            return False
        return True

    def answer(self) -> None:
        """Lets the reader have the list."""
        os.write(self._descriptor, self._content)
        os.close(self._descriptor)


def is_listening(port: int) -> bool:
    """Whether new clients are accepted."""
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


async def test_answer_in_progress_at_the_stop_is_given(site: Site) -> None:
    """A request that runs when relayd is stopped gets its answer, and the exit code is 0."""
    answers: list[tuple[int, bytes]] = []
    async with open_daemon(site) as daemon:
        stuck = Stuck(site)

        async def reload() -> None:
            answers.append(await daemon.post(RELOAD))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(reload)
            await stuck.is_read()
            daemon.process.send_signal(signal.SIGTERM)
            await eventually(lambda: not is_listening(site.port))
            assert answers == []
            stuck.answer()
        with trio.fail_after(PATIENCE_S):
            assert await daemon.process.wait() == 0
    assert [status for status, _ in answers] == [200]


async def test_reload_that_hangs_does_not_hold_up_a_stop(site: Site) -> None:
    """SIGTERM is obeyed while the reload that SIGHUP asked for waits for a dead file system."""
    async with open_daemon(site) as daemon:
        stuck = Stuck(site)
        daemon.process.send_signal(signal.SIGHUP)
        await stuck.is_read()
        assert await daemon.stop() == 0
        assert not [line for line in daemon.lines if "reloaded" in line]


async def test_reload_with_the_output_switched_off_keeps_the_way_to_the_database(
    site: Site,
) -> None:
    """What needs a restart changes nothing before it: run logs go on being inserted."""
    async with open_daemon(site) as daemon:
        site.extra["processing.reporting"] = 'output = "disabled"'
        site.extra["output.database"] = 'password = ""'
        site.write_conf()
        daemon.process.send_signal(signal.SIGHUP)
        await daemon.saw(r"need a restart.*processing\.reporting\.output")
        await daemon.saw("reloaded")
        site.send("node1")
        await daemon.settled()
        assert site.refused() == {}
