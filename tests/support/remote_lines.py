"""A remote run asked for at a relayd's API, whose answer is read while it comes."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpcore2
import trio

from tests.support.daemon import Site
from tests.support.http import BASE


class Lines:
    """The lines of an answer, one by one, as they come."""

    def __init__(self, chunks: AsyncIterator[bytes | bytearray]) -> None:
        self._chunks = chunks
        self._rest = b""

    async def next(self) -> str:
        """Return the next line without its end; "" at the end of the answer."""
        while b"\n" not in self._rest:
            try:
                self._rest += await anext(self._chunks)
            except StopAsyncIteration:
                assert self._rest == b""
                return ""
        line, _, self._rest = self._rest.partition(b"\n")
        return line.decode()

    async def rest(self) -> list[str]:
        """All that still comes."""
        lines = []
        while line := await self.next():
            lines.append(line)
        return lines


@asynccontextmanager
async def run(
    site: Site, target: str, *, events: bool = False, **fields: str
) -> AsyncIterator[Lines]:
    """Asks a relayd for a remote run, as the server's web application does."""
    form = {"asynchronous": "true", "keep_output": "true", **fields}
    headers: dict[bytes | str, bytes | str] = {
        "Content-Type": "application/x-www-form-urlencoded",
        **({"Accept": "application/x-ndjson"} if events else {}),
    }
    with trio.fail_after(60):
        async with (
            httpcore2.AsyncConnectionPool() as pool,
            pool.stream(
                "POST",
                f"http://127.0.0.1:{site.port}{BASE}/remote-run/{target}",
                headers=headers,
                content="&".join(f"{name}={value}" for name, value in form.items()).encode(),
            ) as answer,
        ):
            assert answer.status == 200
            yield Lines(answer.aiter_stream())
