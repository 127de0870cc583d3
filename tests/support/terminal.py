"""A command at a pseudo-terminal, and the text that its screen shows."""

import codecs
import fcntl
import os
import pty
import re
import select
import signal
import struct
import termios
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Final

PATIENCE_S: Final = 20.0
_ESCAPE: Final = re.compile(r"\x1b(?:\[(?P<numbers>[0-9;?]*)(?P<final>[@-~])|[()][A-Z0-9]|[=>78])")


class Screen:
    """The characters that a terminal shows, as far as rich and shells draw.

    Attributes:
        columns: of the terminal.
        rows: lines of the terminal.
    """

    def __init__(self, columns: int, rows: int) -> None:
        self.columns, self.rows = columns, rows
        self._alternate = False
        self._cells = [[" "] * columns for _ in range(rows)]
        self._x = self._y = 0
        self._rest = ""

    def lines(self) -> list[str]:
        """Return the lines without the blanks at their ends."""
        return ["".join(row).rstrip() for row in self._cells]

    def is_alternate(self) -> bool:
        """Return whether a program has taken the whole screen."""
        return self._alternate

    def resize(self, columns: int, rows: int) -> None:
        """Change the size; what was shown is cleared, as programs draw it again."""
        self.columns, self.rows = columns, rows
        self._clear()

    def feed(self, text: str) -> None:
        """Show what a program has written."""
        text, self._rest = self._rest + text, ""
        place = 0
        while place < len(text):
            if text[place] != "\x1b":
                self._put(text[place])
                place += 1
            elif found := _ESCAPE.match(text, place):
                self._obey(found["final"] or "", found["numbers"] or "")
                place = found.end()
            else:  # the rest of it has not come yet
                self._rest = text[place:]
                return

    def _put(self, character: str) -> None:
        if character == "\r":
            self._x = 0
        elif character == "\n":
            self._line_feed()
        elif character == "\b":
            self._x = max(0, self._x - 1)
        elif character >= " ":
            if self._x >= self.columns:
                self._x = 0
                self._line_feed()
            self._cells[self._y][self._x] = character
            self._x += 1

    def _line_feed(self) -> None:
        if self._y + 1 < self.rows:
            self._y += 1
        else:
            del self._cells[0]
            self._cells.append([" "] * self.columns)

    def _obey(self, final: str, text: str) -> None:
        if final in ("h", "l"):
            if text == "?1049":
                self._alternate = final == "h"
                self._clear()
            return
        numbers = [int(one) for one in text.split(";") if one.isdigit()]
        first = numbers[0] if numbers else 0
        if final == "H":
            row, column = [*numbers, 1, 1][:2] if len(numbers) != 1 else (first, 1)
            self._y = min(max(row, 1), self.rows) - 1
            self._x = min(max(column, 1), self.columns) - 1
        elif final == "J":
            for row in range(0 if first == 2 else self._y, self.rows):
                self._erase(row, 0 if first == 2 or row > self._y else self._x)
        elif final == "K":
            self._erase(self._y, 0 if first == 2 else self._x)
        elif final == "A":
            self._y = max(0, self._y - max(1, first))

    def _erase(self, row: int, column: int) -> None:
        self._cells[row][column:] = [" "] * (self.columns - column)

    def _clear(self) -> None:
        self._cells = [[" "] * self.columns for _ in range(self.rows)]
        self._x = self._y = 0


class Terminal:
    """A running command and its terminal.

    Attributes:
        screen: what is shown.
        printed: all that was written.
    """

    def __init__(self, pid: int, own_end: int, other_end: int, screen: Screen) -> None:
        self._pid, self._own_end, self._other_end = pid, own_end, other_end
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._exit_code: int | None = None
        self.screen = screen
        self.printed = ""

    def press(self, keys: bytes) -> None:
        """Send keys."""
        os.write(self._own_end, keys)

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the command."""
        os.kill(self._pid, number)

    def resize(self, columns: int, rows: int) -> None:
        """Change the size of the terminal, of which a signal informs the command."""
        self.screen.resize(columns, rows)
        _set_size(self._own_end, columns, rows)

    def modes(self) -> list[object]:
        """Return the modes of the terminal, as `termios.tcgetattr` does."""
        return list(termios.tcgetattr(self._other_end))

    def until(self, condition: Callable[[list[str]], bool]) -> list[str]:
        """Wait until the lines of the screen meet a condition; return them."""
        end = time.monotonic() + PATIENCE_S
        while not condition(self.screen.lines()):
            shown = "\n".join(self.screen.lines())
            assert time.monotonic() < end, f"it still shows:\n{shown}"
            assert self._read(), f"it ended, and shows:\n{shown}"
        return self.screen.lines()

    def shows(self, *texts: str) -> list[str]:
        """Wait until the screen contains texts, each of them in a line; return all lines."""
        return self.until(lambda lines: all(any(text in line for line in lines) for text in texts))

    def end(self) -> int:
        """Read until the command ends; return its exit code."""
        while self._read():
            pass
        if self._exit_code is None:
            self._exit_code = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
        return self._exit_code

    def _read(self) -> bool:
        """Show what comes next; return False at the end of the command."""
        ended = os.pidfd_open(self._pid)
        try:
            ready, _, _ = select.select([self._own_end, ended], [], [], PATIENCE_S)
        finally:
            os.close(ended)
        assert ready, "nothing more is printed; it shows:\n" + "\n".join(self.screen.lines())
        if self._own_end not in ready:
            return False
        text = self._decoder.decode(os.read(self._own_end, 65_536))
        self.printed += text
        self.screen.feed(text)
        return True

    def kill(self) -> None:
        """End the command if it still runs."""
        if self._exit_code is None:
            with suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)


def _set_size(fd: int, columns: int, rows: int) -> None:
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


@contextmanager
def open_terminal(
    command: Sequence[str],
    *,
    columns: int = 80,
    rows: int = 24,
    env: Mapping[str, str] | None = None,
) -> Iterator[Terminal]:
    """Run a command at a terminal until the block ends; killed there if it still runs.

    Args:
        command: its path and arguments.
        columns: of the terminal.
        rows: lines of the terminal.
        env: added to the environment.
    """
    own_end, other_end = pty.openpty()
    _set_size(own_end, columns, rows)
    environment = {**os.environ, "TERM": "xterm-256color", **(env or {})}
    for name in ("COLUMNS", "LINES"):
        environment.pop(name, None)
    pid = os.fork()
    if pid == 0:  # the terminal must be the controlling one, for Ctrl-C to be a signal
        os.login_tty(other_end)
        os.execve(command[0], [*command], environment)
    terminal = Terminal(pid, own_end, other_end, Screen(columns, rows))
    try:
        yield terminal
    finally:
        terminal.kill()
        os.close(own_end)
        os.close(other_end)
