"""Uploads through the front door: checks before bytes, and files that appear whole."""

import errno
import os
from typing import Any

import pytest
import trio
from structlog.testing import capture_logs

from relayd.api.door import uploads as door_uploads
from relayd.api.door.door import Door
from relayd.api.fair_limiter import Bounds
from tests.support.curl import POLICY_SERVER, USER
from tests.support.front_door import basic, open_client, open_door
from tests.support.http import eventually
from tests.support.webserver import INITIAL_PASSWORD, PASSWORD, Web

KNOWN = basic(f"{USER}:{PASSWORD}")
EXPECT = "Expect: 100-continue\r\n"
CONTINUE = b"HTTP/1.1 100 \r\n\r\n"


def head(length: int, *, path: str = "/reports/x.log", more: str = KNOWN) -> bytes:
    """Return the head of an upload."""
    return f"PUT {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n{more}\r\n".encode()


@pytest.mark.parametrize("size", [0, 1, 70_000, 1_000_000])
async def test_upload_is_stored_whole(web: Web, size: int) -> None:
    """A new file is answered with 201, one in its place with 204, by length or in chunks."""
    data = os.urandom(size)
    async with open_door(web), open_client(web) as client:
        assert (await client.ask("PUT", "/reports/x.log", data or b"", KNOWN)).status == 201
        assert (web.incoming / "x.log").read_bytes() == data
        chunked = head(0, more=f"{KNOWN}Transfer-Encoding: chunked\r\n").replace(
            b"Content-Length: 0\r\n", b""
        )
        await client.send(chunked + b"%x\r\n%b\r\n0\r\n\r\n" % (size + 1, data + b"+"))
        assert (await client.answer("PUT")).status == 204
    assert (web.incoming / "x.log").read_bytes() == data + b"+"
    assert web.waiting() == ["x.log"]


@pytest.mark.parametrize(
    ("request_head", "status"),
    [
        (head(5, more=EXPECT), 401),
        (head(5, more=EXPECT + basic(f"{USER}:wrong")), 401),
        (head(5, path="/reports/.x", more=EXPECT + KNOWN), 403),
        (head(5, path="/nothing", more=EXPECT), 403),
        (head(5, more=f"{EXPECT}{KNOWN}Content-Range: bytes 0-4/9\r\n"), 400),
        (head(5).replace(b"PUT", b"POST"), 405),
        (head(64 * 1024**2 + 1, more=EXPECT + KNOWN), 413),
        (head(5, path="/reports/" + "a" * 252 + ".log", more=EXPECT + KNOWN), 403),
    ],
)
async def test_body_is_asked_for_after_the_checks(
    web: Web, request_head: bytes, status: int
) -> None:
    """A client that waits for 100 (Continue) learns of a refusal without sending its file."""
    async with open_door(web):
        async with open_client(web) as client:
            await client.send(request_head)
            assert (await client.answer("PUT")).status == status
        async with open_client(web) as client:
            await client.send(head(5, more=EXPECT + KNOWN))
            assert await client.stream.receive_some(len(CONTINUE)) == CONTINUE
            assert web.waiting() == []
            await client.send(b"12345")
            assert (await client.answer("PUT")).status == 201
    assert web.waiting() == ["x.log"]


async def test_api_asks_for_its_body_as_well(web: Web) -> None:
    """A body for relayd's API is asked for only if the client may use that part."""
    path = "/rudder/relay-api/remote-run/all"

    async def api(_scope: Any, receive: Any, send: Any) -> None:
        body = (await receive())["body"]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})

    asked = head(3, path=path, more=EXPECT).replace(b"PUT", b"POST")
    async with open_door(web, api):
        async with open_client(web) as client:
            await client.send(asked)
            assert (await client.answer("POST")).status == 403
        async with open_client(web, source=POLICY_SERVER) as client:
            await client.send(asked)
            assert await client.stream.receive_some(len(CONTINUE)) == CONTINUE
            await client.send(b"a=b")
            assert (await client.answer("POST")).body == b"a=b"


@pytest.mark.parametrize("sent", [10, 100_000])
@pytest.mark.parametrize("end", ["cut", "slow", "large", "stop"])
async def test_unfinished_upload_leaves_nothing(
    web: Web, monkeypatch: pytest.MonkeyPatch, sent: int, end: str
) -> None:
    """Neither a file nor a temporary one is left, whatever ends an upload early."""
    if end == "slow":
        monkeypatch.setattr(door_uploads, "PATIENCE_S", 0.3)
        monkeypatch.setattr(door_uploads, "SLOWEST", 10**9)
    if end == "large":
        monkeypatch.setattr("relayd.api.door.door.MAX_RUN_LOG", sent)
    async with open_door(web) as door, open_client(web) as client:
        chunked = head(0, more=f"{EXPECT}{KNOWN}Transfer-Encoding: chunked\r\n")
        await client.send(chunked.replace(b"Content-Length: 0\r\n", b""))
        assert await client.stream.receive_some(len(CONTINUE)) == CONTINUE
        await client.send(b"%x\r\n%b\r\n" % (sent, bytes(sent)))
        if sent > 64 * 1024:
            await eventually(lambda: web.waiting() != [])
        assert web.incoming / "x.log" not in list(web.incoming.iterdir())
        if end == "cut":
            await client.stream.aclose()
        elif end == "large":
            await client.send(b"1\r\nx\r\n")
            assert (await client.answer("PUT")).status == 413
        elif end == "slow":
            assert (await client.answer("PUT")).status == 408
        if end != "stop":
            await eventually(lambda: counted(door) == 1)
            assert web.waiting() == []
    assert web.waiting() == []


def counted(door: Door) -> float:
    """Return the number of uploads that have an outcome."""
    families = door._metrics.uploads.collect()
    return sum(sample.value for family in families for sample in family.samples)


async def test_disk_that_is_nearly_full(web: Web) -> None:
    """The client is asked to come back later, before it sends its file."""
    async with open_door(web, min_free_space=10**18), open_client(web) as client:
        await client.send(head(5, more=EXPECT + KNOWN))
        answer = await client.answer("PUT")
    assert (answer.status, answer.headers["retry-after"]) == (503, "60")
    assert web.waiting() == []


@pytest.mark.parametrize(("number", "status"), [(errno.ENOSPC, 503), (errno.EIO, 500)])
@pytest.mark.parametrize("call", ["write", "fsync", "rename"])
async def test_disk_that_fails(
    web: Web, monkeypatch: pytest.MonkeyPatch, number: int, status: int, call: str
) -> None:
    """An error of the disk is the answer, and leaves nothing."""

    def fail(*_args: object, **_options: object) -> None:
        raise OSError(number, os.strerror(number))

    async with open_door(web), open_client(web) as client:
        with monkeypatch.context() as patch, capture_logs() as logs:
            patch.setattr(os, call, fail)
            assert (await client.ask("PUT", "/reports/x.log", b"x", KNOWN)).status == status
        assert [entry["event"] for entry in logs] == ["upload not stored"]
        assert web.waiting() == []
        assert (await client.ask("PUT", "/reports/x.log", b"x", KNOWN)).status == 201


async def test_file_is_on_disk_before_the_answer(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    """The content is synced before the file gets its name, the directory after that."""
    calls: list[str] = []
    for name in ("write", "fsync", "rename"):
        real = getattr(os, name)

        def note(*args: Any, _name: str = name, _real: Any = real, **options: Any) -> Any:
            calls.append(_name)
            return _real(*args, **options)

        monkeypatch.setattr(os, name, note)
    async with open_door(web), open_client(web) as client:
        await client.ask("PUT", "/inventories/x.ocs", b"x", basic(f"{USER}:{INITIAL_PASSWORD}"))
    spool = [call for call in calls if call in ("fsync", "rename")]
    assert spool == ["fsync", "rename", "fsync"]


async def test_uploads_of_one_address_are_bounded(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who has too many uploads at once is asked to come back; other addresses are served."""
    monkeypatch.setattr(door_uploads, "AT_ONCE", Bounds(total=3, each=1, waiting=0, wait_s=60))
    async with open_door(web), open_client(web) as first:
        await first.send(head(5, more=EXPECT + KNOWN))
        assert await first.stream.receive_some(len(CONTINUE)) == CONTINUE
        async with open_client(web) as second, open_client(web, source=POLICY_SERVER) as other:
            answer = await second.ask("PUT", "/reports/second", b"1", KNOWN)
            assert (answer.status, answer.headers["retry-after"]) == (503, "60")
            assert (await other.ask("PUT", "/reports/other", b"1", KNOWN)).status == 201
        await first.send(b"12345")
        assert (await first.answer("PUT")).status == 201
    assert web.waiting() == ["other", "x.log"]


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("2026-03-01T12:00:00+00:00@node0.log.gz", 201),
        ("2026-03-01T12:00:00+00:00@stranger.log.gz", 403),
        ("2026-03-01T12:00:00+00:00@root.log.gz", 403),
        ("whatever", 400),
    ],
)
async def test_early_refusal(web: Web, name: str, status: int) -> None:
    """If configured so, a name that no run log of a known node has is refused at once."""
    async with open_door(web, refuse_early=True), open_client(web) as client:
        path = f"/reports/{name.replace('+', '%2B')}"
        await client.send(head(1, path=path, more=EXPECT + KNOWN))
        if status == 201:
            assert await client.stream.receive_some(len(CONTINUE)) == CONTINUE
            await client.send(b"x")
        assert (await client.answer("PUT")).status == status
        initial = basic(f"{USER}:{INITIAL_PASSWORD}")
    async with open_door(web, refuse_early=True), open_client(web) as client:
        assert (await client.ask("PUT", "/inventories/whatever", b"x", initial)).status == 201
    async with open_door(web), open_client(web) as client:
        stored = await client.ask("PUT", path, b"x", KNOWN)
        assert stored.status == (204 if status == 201 else 201)


async def test_leftovers_of_a_killed_relayd_are_removed(web: Web) -> None:
    """At the start, temporary files of uploads go, and nothing else."""
    for name in (".relayd.tmp.upload.1.0011", ".relayd.tmp.1.2", ".davfs.tmp1", "x.log"):
        (web.incoming / name).write_bytes(b"x")
    async with open_door(web):
        assert web.waiting() == [".davfs.tmp1", ".relayd.tmp.1.2", "x.log"]


async def test_two_uploads_of_one_name(web: Web) -> None:
    """Both are answered, and one of them is there whole."""
    contents = [bytes([number]) * 200_000 for number in range(4)]
    answers: list[int] = []
    async with open_door(web):

        async def upload(data: bytes) -> None:
            async with open_client(web) as client:
                answers.append((await client.ask("PUT", "/reports/x", data, KNOWN)).status)

        async with trio.open_nursery() as nursery:
            for data in contents:
                nursery.start_soon(upload, data)
    assert set(answers) <= {201, 204}
    assert (web.incoming / "x").read_bytes() in contents
    assert web.waiting() == ["x"]
