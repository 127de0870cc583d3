"""Messages to the service manager: ready, reloading, stopping, and signs of life.

The protocol is that of sd_notify(3) and sd_watchdog_enabled(3): datagrams of `KEY=value` lines
to the Unix socket that `$NOTIFY_SOCKET` names. Where it is unset, nothing is sent.
"""

import os
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping, MutableMapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Final

import trio

from relayd.errors import RelaydError
from relayd.system.printable import printable
from relayd.system.shortage import words_of
from relayd.telemetry.logs import get_logger

log = get_logger("main")

#: A message that is not taken within this time is dropped: the work does not wait for it.
SEND_TIMEOUT_S: Final = 1.0
#: How often the state in words is compared with the one that was sent last.
STATUS_PERIOD_S: Final = 10.0
#: A status is one line in `systemctl status`.
_STATUS_LENGTH: Final = 300
_VARIABLES: Final = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


class Notifier:
    """Sends messages to the service manager.

    Args:
        address: a path, or `@name` in the abstract namespace; "" sends nothing.
        watchdog_s: seconds without a sign of life after which the service manager takes this
            process for dead and restarts it; None without a watchdog.
    """

    def __init__(self, address: str = "", watchdog_s: float | None = None) -> None:
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self.watchdog_s = watchdog_s
        self._failed = False
        self._describe: Callable[[], str] | None = None
        self._reloaded = ""
        self._shown = ""

    async def ready(self, describe: Callable[[], str]) -> None:
        """Report that the start is done.

        Args:
            describe: returns the state in words, for this and all later statuses.
        """
        self._describe = describe
        await self._send("READY=1", self._status())

    def _status(self) -> str:
        assert self._describe is not None
        parts = [self._describe(), self._reloaded]
        self._shown = _status("; ".join(part for part in parts if part))
        return self._shown

    @asynccontextmanager
    async def reload(self) -> AsyncIterator[None]:
        """Report that the block is a reload, and how it ended.

        A reload before the end of the start belongs to the start and is not reported.
        """
        if self._describe is None:
            yield
            return
        # CLOCK_MONOTONIC in microseconds, by which systemd distinguishes this reload from others.
        await self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
        self._reloaded = f"the reload at {_now()} did not end"
        try:
            yield
            self._reloaded = f"reloaded at {_now()}"
        except RelaydError as error:
            self._reloaded = f"the reload at {_now()} failed; nothing was changed: {error}"
            raise
        finally:
            # Otherwise the unit would stay in the state `reloading`.
            with trio.move_on_after(SEND_TIMEOUT_S, shield=True):
                await self._send("READY=1", self._status())

    async def stopping(self) -> None:
        """Report that the graceful stop begins."""
        await self._send("STOPPING=1", _status("draining"))

    async def run_status(self) -> None:
        """Report the state again when it has changed, from the end of the start on."""
        while self._address:
            await trio.sleep(STATUS_PERIOD_S)
            if self._describe is not None and self._shown != self._status():
                await self._send(self._shown)

    async def run_watchdog(self) -> None:
        """Report twice in each period that the event loop runs; return without a watchdog."""
        if not self._address or self.watchdog_s is None:
            return
        while True:
            await self._send("WATCHDOG=1")
            await trio.sleep(self.watchdog_s / 2)

    async def _send(self, *lines: str) -> None:
        if not self._address:
            return
        # A socket for each message, which also reaches a service manager that was restarted.
        with trio.socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            try:
                with trio.fail_after(SEND_TIMEOUT_S):
                    await sender.connect(self._address)
                    await sender.send("\n".join(lines).encode())
            except (OSError, trio.TooSlowError) as error:
                self._note_failure(error)
            else:
                self._failed = False

    def _note_failure(self, error: Exception) -> None:
        if not self._failed:
            detail = words_of(error) if isinstance(error, OSError) else "timeout"
            log.warning("cannot notify the service manager", detail=detail)
        self._failed = True


def take_notifier(environment: MutableMapping[str, str] = os.environ) -> Notifier:
    """Return a notifier for the service manager that started this process.

    The variables are removed from the environment, so that no child can speak for this process.
    """
    values = {name: environment.pop(name, "") for name in _VARIABLES}
    address = values["NOTIFY_SOCKET"]
    if address and address[0] not in "/@":
        log.warning("NOTIFY_SOCKET is neither a path nor an abstract name", detail=address)
        address = ""
    return Notifier(address, _watchdog(values))


def _watchdog(values: Mapping[str, str]) -> float | None:
    """Return the period of the watchdog in seconds, if there is one for this process."""
    wanted, pid = values["WATCHDOG_USEC"], values["WATCHDOG_PID"]
    if not wanted or pid not in ("", str(os.getpid())):
        return None
    if not (wanted.isascii() and wanted.isdecimal() and int(wanted)):
        log.warning("WATCHDOG_USEC is not a number of microseconds", detail=wanted)
        return None
    return int(wanted) / 1_000_000


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _status(text: str) -> str:
    return f"STATUS={printable(text, _STATUS_LENGTH)}"
