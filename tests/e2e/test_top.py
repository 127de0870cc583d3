"""`relayd top` at a terminal, beside a running relayd."""

import json
import shlex
import signal
import subprocess
import sys
from functools import partial

import pytest
import trio

from relayd.errors import Reason, Refused
from relayd.spool.failed.quarantine import RefusedFile, quarantine_all
from tests.support.daemon import Site, open_daemon
from tests.support.terminal import Terminal, open_terminal

UP, DOWN, RIGHT, LEFT = b"\x1b[A", b"\x1b[B", b"\x1b[C", b"\x1b[D"
END = b"\x1b[F"
INTERRUPT, SUSPEND, QUIT = b"\x03", b"\x1a", b"q"


def _walk(terminal: Terminal, steps: list[tuple[bytes, str]]) -> None:
    """Press keys; after each one the screen has a text, and all its lines to the last."""
    for key, text in steps:
        terminal.press(key)
        terminal.shows(text, "q: quit")


def _use(command: list[str]) -> None:
    """Look at everything, change the size, and quit; then interrupt another one."""
    with open_terminal(command) as terminal:
        before = terminal.modes()
        terminal.shows("> nodes by waiting files")
        assert terminal.screen.is_alternate()
        assert terminal.modes() != before
        _walk(
            terminal,
            [
                (RIGHT, "> root.test"),
                (DOWN, "> relay.test"),
                (DOWN, "> node1.test"),
                (RIGHT, "waiting       none"),
                (LEFT, "> node1.test"),
                (LEFT, "> nodes by waiting files"),
                (DOWN, "> nodes by run logs an hour"),
                (UP, "> nodes by waiting files"),
                (END, "> refused: expired"),
                (RIGHT, " ago  2026-03-01T12:00:00+00:00@node1.log"),
                (RIGHT, "waited longer than allowed"),
                (LEFT, "relayd failed show expired"),
                (LEFT, "> refused: expired"),
                (UP, "> relays"),
                (RIGHT, "> (without a relay)"),
                (DOWN, "> relay.test"),
                (RIGHT, "> node2.test"),
                (LEFT, "> relay.test"),
                (LEFT, "> relays"),
            ],
        )
        terminal.resize(60, 12)
        terminal.shows("> relays", "right: open")
        terminal.press(UP + UP + UP + RIGHT)
        terminal.shows("LAST LOG  WAIT  FAILED", "q: quit")
        terminal.press(LEFT)
        terminal.shows("> nodes by run logs an hour", "right: open")
        terminal.resize(100, 30)
        terminal.shows("since start")
        terminal.press(QUIT)
        assert terminal.end() == 0
        assert terminal.modes() == before
        assert not terminal.screen.is_alternate()
    for sent, code in ((signal.SIGINT, 130), (signal.SIGTERM, -15), (signal.SIGHUP, -1)):
        with open_terminal(command) as terminal:
            before = terminal.modes()
            terminal.shows("> nodes by waiting files")
            if sent == signal.SIGINT:
                terminal.press(INTERRUPT)
            else:
                terminal.send(sent)
            assert terminal.end() == code
            assert terminal.modes() == before
            assert not terminal.screen.is_alternate()
    _suspend(command)
    with open_terminal(command, env={"TERM": "dumb"}) as terminal:
        assert terminal.end() == 3
        assert "relayd status --watch" in terminal.printed


def _suspend(command: list[str]) -> None:
    """Ctrl-Z gives the terminal back to the shell, and fg takes it again, with its keys."""
    shell = ["/bin/bash", "--norc", "--noprofile", "-i"]
    with open_terminal(shell, env={"LC_ALL": "C.UTF-8", "PS1": "shell$ "}) as terminal:
        terminal.press(f"{shlex.join(command)}\n".encode())
        terminal.shows("> nodes by waiting files")
        terminal.press(SUSPEND)
        terminal.shows("Stopped")
        assert not terminal.screen.is_alternate()
        terminal.press(b"fg\n")
        terminal.shows("> nodes by waiting files", "q: quit")
        assert terminal.screen.is_alternate()
        _walk(terminal, [(DOWN, "> nodes by run logs an hour")])
        terminal.press(QUIT)
        terminal.until(lambda lines: "shell$" in lines and not terminal.screen.is_alternate())
        terminal.press(b"exit 7\n")
        assert terminal.end() == 7


@pytest.mark.site(nodes=["node1", "node2"], database=False)
async def test_everything_is_reached_with_arrows_and_left_again(site: Site) -> None:
    """Nodes, one node, relays, a reason and its files open and close; any way out is clean."""
    listed = {
        "root": {"hostname": "root.test", "policy-server": "root"},
        "relay": {"hostname": "relay.test", "policy-server": "root"},
        "node1": {"hostname": "node1.test", "policy-server": "root"},
        "node2": {"hostname": "node2.test", "policy-server": "relay"},
    }
    site.nodes_list.write_text(json.dumps(listed))
    name = site.name("node1")
    site.upload(name, site.run_log("node1"))
    refused = Refused(Reason.EXPIRED, "waited longer than allowed")
    quarantine_all(site.incoming, site.failed, [RefusedFile(name, None, refused, "node1", "")])
    command = [sys.executable, "-m", "relayd", "top", "-c", str(site.conf)]
    async with open_daemon(site):
        await trio.to_thread.run_sync(partial(_use, command))
    piped = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (piped.returncode, piped.stdout) == (3, "")
    [line] = piped.stderr.splitlines()
    assert line == "error: relayd top needs a terminal; elsewhere use: relayd status --watch"
