"""The access log."""

import re
from functools import partial
from pathlib import Path

import pytest
import trio

from relayd.config.main_conf import LoggingSettings
from tests.support.http import BASE, api, open_server
from tests.support.logs import settings, written

REQUESTS = (
    b"GET /metrics?a=b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    b"PUT /none/%1b%0a\xc3\xa9 HTTP/1.0\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
    b"GET  /two-spaces HTTP/1.1\r\n\r\n",
    b"HEAD /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
)


async def ask() -> None:
    """Make the requests, one after the other."""
    async with open_server(api()) as server:
        for data in REQUESTS:
            assert await server.raw(data)
        assert (await server.ask("POST", f"{BASE}/system/reload")).status == 200


@pytest.mark.fault("F63")
@pytest.mark.parametrize(
    ("how", "count"),
    [
        (settings("info", "access=debug"), 5),
        (settings("info", "info,access=trace"), 5),
        (settings("info"), 0),
        (settings("debug", "access=info"), 0),
    ],
)
def test_one_line_for_each_request(tmp_path: Path, how: LoggingSettings, count: int) -> None:
    """Where it is wanted, each request is one line with status, size, time and client."""
    text = written(tmp_path / "log", partial(trio.run, ask), how)
    lines = [line for line in text.splitlines() if " access: " in line]
    assert len(lines) == count
    if not count:
        return
    assert re.search(
        r'request method=GET path="/metrics\?a=b" status=200 bytes=\d{4,} ms=[\d.]+ '
        r"client=127\.0\.0\.1$",
        lines[0],
    )
    assert "method=PUT path=/none/%1b%0a%C3%A9 status=404" in lines[1]
    assert "malformed request status=400 client=127.0.0.1" in lines[2]
    assert "method=HEAD path=/metrics status=200 bytes=0 " in lines[3]
    assert "method=POST" in lines[4]
