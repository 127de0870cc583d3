"""A real curl in place of agents, and connections for what curl would not send."""

import ssl
import subprocess
from abc import ABC, abstractmethod
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import trio

from tests.support.remote_lines import Lines
from tests.support.signing import SigningNode

USER: Final = "rudder"
#: Source addresses of requests: where nodes are, the policy server among them, and a stranger.
POLICY_SERVER: Final = "127.0.0.1"
NODE: Final = "127.0.0.2"
STRANGER: Final = "127.0.0.3"


@dataclass(frozen=True)
class Reply:
    """What curl got: the status (0: no answer), the body, curl's own exit code."""

    status: int
    body: str
    exit_code: int


class Requests(ABC):
    """Requests to an HTTPS server.

    Attributes:
        host: its address.
        port: its HTTPS port there.
        password: of USER.
    """

    host: str
    port: int
    password: str

    @property
    @abstractmethod
    def own(self) -> Path:
        """A directory for files that curl reads."""

    async def curl(
        self,
        path: str,
        *options: str,
        user: str | None = None,
        node: SigningNode | None = None,
        source: str = NODE,
    ) -> Reply:
        """One request, sent as an agent sends it.

        Args:
            path: of the URL, sent as it is.
            options: more of curl's.
            user: `NAME:PASSWORD`.
            node: whose certificate and key to show.
            source: address it comes from.
        """
        command = self._command(path, source, "-w", "\n%{http_code}", *options)
        if user is not None:
            command += ["--user", user]
        if node is not None:
            cert, key = node.write(self.own)
            command += ["--cert", str(cert), "--key", str(key)]
        done = await trio.run_process(
            command, capture_stdout=True, capture_stderr=True, check=False
        )
        body, _, status = done.stdout.decode(errors="replace").rpartition("\n")
        return Reply(int(status), body, done.returncode)

    def _command(self, path: str, source: str, *options: str) -> list[str]:
        common = ["curl", "-sS", "-k", "--path-as-is", "--interface", source, "-m", "50"]
        return [*common, *options, f"https://{self.host}:{self.port}{path}"]

    @asynccontextmanager
    async def follow(self, path: str, *options: str, source: str) -> AsyncIterator[Lines]:
        """Yield a request whose answer is read as it comes; curl has to succeed in the end."""
        run = partial(
            trio.run_process,
            self._command(path, source, "-N", "-f", *options),
            stdout=subprocess.PIPE,
        )
        async with trio.open_nursery() as nursery:
            process: trio.Process = await nursery.start(run)
            assert process.stdout is not None
            async with process.stdout:
                yield Lines(process.stdout)

    async def upload(self, path: str, data: bytes, user: str | None = None) -> Reply:
        """`curl --upload-file`, as agents send run logs and inventories, by default those known."""
        user = user or f"{USER}:{self.password}"
        file = self.own / "upload"
        file.write_bytes(data)
        return await self.curl(path, "--upload-file", str(file), user=user)

    async def begin_upload(
        self, path: str, data: bytes, framing: str
    ) -> trio.SSLStream[trio.SocketStream]:
        """Send the first half of an upload, by "length" or "chunked"; the rest never comes."""
        half = data[: len(data) // 2]
        credentials = b64encode(f"{USER}:{self.password}".encode()).decode()
        if framing == "chunked":
            header, body = "Transfer-Encoding: chunked", b"%x\r\n%s\r\n" % (len(half), half)
        else:
            header, body = f"Content-Length: {len(data)}", half
        head = f"PUT {path} HTTP/1.1\r\nHost: front\r\nAuthorization: Basic {credentials}\r\n"
        stream = await self.connect()
        await stream.send_all(f"{head}{header}\r\n\r\n".encode() + body)
        return stream

    async def connect(self) -> trio.SSLStream[trio.SocketStream]:
        """Return a connection for requests that curl would not send."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        stream = await trio.open_tcp_stream(self.host, self.port)
        return trio.SSLStream(stream, context, https_compatible=True)
