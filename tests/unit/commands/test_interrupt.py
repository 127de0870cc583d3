"""Ctrl-C at a terminal, in a command that has changed it."""

import os
import pty
import select
import sys
import termios
from pathlib import Path

import pytest

ALTERNATE, BACK = b"\x1b[?1049h", b"\x1b[?1049l"


@pytest.mark.parametrize(("key", "code"), [(b"\x03", 130), (b"q", 0)])
def test_top_leaves_the_terminal_as_it_was(tmp_path: Path, key: bytes, code: int) -> None:
    """Both ways out of `relayd top` restore its screen and its mode."""
    (tmp_path / "main.conf").write_text(
        f'[general]\nnode_id = "root"\ncontrol_socket = "/nowhere/{tmp_path.name}"\n'
    )
    (tmp_path / "main.conf").chmod(0o640)
    own_end, other_end = pty.openpty()
    before = termios.tcgetattr(other_end)
    command = [sys.executable, "-m", "relayd", "top", "-c", str(tmp_path)]
    child = os.fork()
    if child == 0:  # the terminal must be the controlling one, for Ctrl-C to be a signal
        os.login_tty(other_end)
        os.execv(command[0], command)
    printed = b""
    while b"cannot be asked" not in printed:
        printed += _read(own_end)
    assert ALTERNATE in printed
    os.write(own_end, key)
    while BACK not in printed:
        printed += _read(own_end)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == code
    assert termios.tcgetattr(other_end) == before
    os.close(own_end)
    os.close(other_end)


def _read(fd: int) -> bytes:
    ready, _, _ = select.select([fd], [], [], 60.0)
    assert ready, "nothing more is printed"
    return os.read(fd, 65_536)
