"""The end of the notification socket that belongs to the service manager."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import trio

PATIENCE_S: Final = 60.0


class ServiceManager:
    """What a service manager hears.

    Attributes:
        address: the value of `$NOTIFY_SOCKET`.
    """

    def __init__(self, address: str, sock: trio.socket.SocketType) -> None:
        self.address = address
        self._socket = sock

    def environment(
        self, watchdog_s: float | None = None, pid: int | None = None
    ) -> dict[str, str]:
        """Return the variables that a service finds."""
        found = {"NOTIFY_SOCKET": self.address}
        if watchdog_s is not None:
            found["WATCHDOG_USEC"] = str(int(watchdog_s * 1_000_000))
        return found

    async def message(self) -> dict[str, str]:
        """Return the next message."""
        with trio.fail_after(PATIENCE_S):
            return parse(await self._socket.recv(65536))

    async def hears(self, key: str, value: str) -> dict[str, str]:
        """Wait for a message that says this; return it."""
        while True:
            message = await self.message()
            if message.get(key) == value:
                return message

    async def falls_silent(self, seconds: float) -> None:
        """Wait until no message has come for this long, as a watchdog does."""
        while True:
            with trio.move_on_after(seconds):
                await self._socket.recv(65536)
                continue
            return

    def drain(self) -> list[bytes]:
        """Everything that waits to be read."""
        found = []
        while True:
            try:
                found.append(os.read(self._socket.fileno(), 65536))
            except BlockingIOError:
                return found


def parse(message: bytes) -> dict[str, str]:
    """Return the lines of a message."""
    return dict(line.split("=", 1) for line in message.decode().splitlines())


@contextmanager
def open_service_manager(address: str | Path) -> Iterator[ServiceManager]:
    """Listen on a path, or on `@name` in the abstract namespace."""
    address = str(address)
    plain = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    plain.bind("\0" + address[1:] if address.startswith("@") else address)
    with trio.socket.from_stdlib_socket(plain) as sock:
        yield ServiceManager(address, sock)
