"""The socket unit of the root helper: accepts connections and starts the helper for each."""

import json
import os
import socket
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import trio

from relayd.remote_run.helper.protocol import FRAME

PATIENCE_S = 60.0


class HelperSocket:
    """Where helpers are reached.

    Attributes:
        path: of the socket.
        helpers: those started so far.
        log: the file that holds what they wrote on standard error.
    """

    def __init__(self, path: Path, command: Iterable[str], log: Path) -> None:
        self.path = path
        self.helpers: list[trio.Process] = []
        self.log = log
        self._command = list(command)

    def said(self) -> list[str]:
        """Lines for the journal."""
        return self.log.read_text().splitlines()

    async def serve(self, listener: trio.SocketListener) -> None:
        """Accept, as `Accept=yes` and `StandardInput=socket` of systemd do."""
        while True:
            stream = await listener.accept()
            with stream.socket, self.log.open("ab") as log:
                self.helpers.append(
                    await trio.lowlevel.open_process(
                        self._command,
                        stdin=stream.socket.fileno(),
                        stdout=stream.socket.fileno(),
                        stderr=log,
                    )
                )

    async def all_gone(self) -> None:
        """Wait until every helper has ended."""
        with trio.fail_after(PATIENCE_S):
            for helper in self.helpers:
                await helper.wait()


@asynccontextmanager
async def open_helper_socket(
    root: Path,
    command: Path,
    hosts: Iterable[str],
    *,
    user: str | None = None,
    deadline_s: float = 300.0,
    wrapper: Iterable[str] = (),
) -> AsyncIterator[HelperSocket]:
    """Listen as long as the block lasts, then sees to it that no helper is left.

    Args:
        root: where socket, nodes list and log are made.
        command: what helpers run.
        hosts: host names of the nodes list.
        user: the account that may ask; unset: this process's account.
        deadline_s: seconds for a command.
        wrapper: the command that runs each helper.
    """
    nodes_list = root / "helper-nodes.json"
    nodes = {host: {"hostname": host, "policy-server": "root"} for host in hosts}
    nodes_list.write_text(json.dumps(nodes))
    options = {
        "--user": str(os.getuid()) if user is None else user,
        "--command": str(command),
        "--nodes-list": str(nodes_list),
        "--deadline": str(deadline_s),
    }
    program = [sys.executable, "-m", "relayd.remote_run.helper.main"]
    command_line = [*wrapper, *program, *(part for pair in options.items() for part in pair)]
    helper = HelperSocket(root / "helper.sock", command_line, root / "helper.log")
    helper.log.touch()
    plain = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    plain.bind(str(helper.path))
    plain.listen(16)
    async with trio.SocketListener(trio.socket.from_stdlib_socket(plain)) as listener:
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(helper.serve, listener)
                yield helper
                nursery.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True):
                for process in helper.helpers:
                    process.kill()
                    await process.wait()


def frames(data: bytes) -> list[tuple[bytes, bytes]]:
    """Kind and content of what a helper sent, which has to be nothing but whole frames."""
    found = []
    while data:
        kind, size = FRAME.unpack(data[: FRAME.size])
        content = data[FRAME.size : FRAME.size + size]
        assert len(content) == size
        found.append((kind, content))
        data = data[FRAME.size + size :]
    return found


async def ask(client: socket.socket, request: bytes) -> list[tuple[bytes, bytes]]:
    """Return what a helper answers to these bytes on a new connection, which is closed then."""
    async with trio.SocketStream(trio.socket.from_stdlib_socket(client)) as stream:
        answer = b""
        # The helper does not read the rest of what it refuses.
        with suppress(trio.BrokenResourceError):
            await stream.send_all(request)
        with trio.fail_after(PATIENCE_S), suppress(trio.BrokenResourceError):
            async for piece in stream:
                answer += piece
    return frames(answer)


def connect(path: Path) -> socket.socket:
    """Return a connection."""
    client = socket.socket(socket.AF_UNIX)
    client.connect(str(path))
    return client


def connect_as(uid: int, path: Path) -> socket.socket:
    """Return a connection of another account: the kernel records the peer. Needs root."""
    os.seteuid(uid)
    try:
        return connect(path)
    finally:
        os.seteuid(0)
