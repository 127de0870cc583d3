"""Checks of the service's state, each in bounded time."""

import threading
from pathlib import Path

import msgspec
import pytest
import trio

from relayd.api.status import StatusReader, without_credentials
from relayd.errors import ConfigError, DatabaseError
from relayd.outputs.results import HeldFiles, ServerFacts, StoreFacts
from tests.support.http import BASE, api, open_server


def fine() -> None:
    """A configuration without faults."""


async def test_configuration_is_read_for_each_request(tmp_path: Path) -> None:
    """A file fixed between two requests is valid for the second."""
    path = tmp_path / "main.conf"

    def read() -> None:
        if not path.exists():
            raise ConfigError(f"Could not read main configuration file from {path}")

    reader = StatusReader(read)
    details = f"Could not read main configuration file from {path}"
    before = msgspec.to_builtins(await reader())
    path.write_text("")
    after = msgspec.to_builtins(await reader())
    assert before == {"configuration": {"status": "error", "details": details}}
    assert after == {"configuration": {"status": "success"}}


async def test_configuration_is_not_read_in_the_event_loop() -> None:
    """A slow disk blocks a thread, not the event loop."""
    readers = []
    await StatusReader(lambda: readers.append(threading.current_thread()))()
    assert readers
    assert readers[0] is not threading.main_thread()


@pytest.mark.fault("A21")
async def test_a_database_that_hangs_is_a_timeout() -> None:
    """A server that never answers is reported after two seconds, with the other checks."""
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]

    async def ask_database() -> None:
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.receive_some(1)

    app = api(status=StatusReader(fine, ask_database))
    async with listener, open_server(app) as server:
        answer = await server.ask("GET", f"{BASE}/system/status")
    assert msgspec.json.decode(answer.body)["data"] == {
        "configuration": {"status": "success"},
        "database": {"status": "error", "details": "timeout: no answer within 2 s"},
    }


@pytest.mark.fault("A21")
async def test_a_hanging_file_system_blocks_few_threads() -> None:
    """At any rate of status requests, no more than two threads wait for the disk."""
    release = threading.Event()
    stuck = 0

    def hang() -> None:
        nonlocal stuck
        stuck += 1
        release.wait()

    reader = StatusReader(hang)
    reports = []

    async def ask() -> None:
        reports.append(await reader())

    try:
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(ask)
    finally:
        release.set()
    assert stuck == 2
    assert {report.configuration.status for report in reports} == {"error"}


async def test_details_carry_no_credentials() -> None:
    """The password of a URL in an error does not reach the client."""

    async def ask_database() -> None:
        await trio.lowlevel.checkpoint()
        raise DatabaseError("postgres://rudder:s3cr3t@db/rudder: refused", "transient")

    report = await StatusReader(fine, ask_database)()
    assert msgspec.to_builtins(report)["database"] == {
        "status": "error",
        "details": "postgres://***@db/rudder: refused",
    }


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgres://u:p@ss:w@rd@h/db down", "postgres://***@h/db down"),
        ("host=db password=s3cr3t port=5", "host=db password=*** port=5"),
        ("Password: 'with space' end", "Password: *** end"),
        ("nothing to hide: a@b", "nothing to hide: a@b"),
    ],
)
def test_credentials_are_masked_everywhere(text: str, shown: str) -> None:
    """URLs and key-value pairs lose their secret, and the rest stays."""
    assert without_credentials(text) == shown


async def test_facts_of_the_database_are_shown() -> None:
    """The server and the numbers of held files stand with the check of the database."""

    async def ask_database() -> None:
        await trio.lowlevel.checkpoint()

    def facts() -> StoreFacts:
        server = ServerFacts("db1:5432", "primary", 3)
        return StoreFacts(server=server, held=HeldFiles(5, 700, 4, 3, 2))

    report = await StatusReader(fine, ask_database, facts)()
    assert msgspec.to_builtins(report) == {
        "configuration": {"status": "success"},
        "database": {
            "status": "success",
            "server": {"address": "db1:5432", "role": "primary", "timeline": 3},
            "held": {"files": 5, "bytes": 700, "replayed": 4, "missing": 3, "released_early": 2},
        },
    }
