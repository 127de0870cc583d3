"""The shared folder serves its files and nothing else."""

import hashlib
import os
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from relayd.shared.reading import OpenFile
from tests.support.http import Answer, descriptors, eventually, open_server
from tests.support.shared import FOLDER, Shared, make_shared
from tests.support.traversal import traversals

CONTENT = bytes(range(256)) * 4000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
SHA512 = hashlib.sha512(CONTENT).hexdigest()


@pytest.fixture
async def shared(tmp_path: Path) -> Shared:
    """A folder with some files."""
    shared = await make_shared(tmp_path)
    (shared.folder / "sub dir").mkdir()
    (shared.folder / "sub dir" / "..file é").write_bytes(CONTENT)
    (shared.folder / "file").write_bytes(CONTENT)
    (shared.folder / "empty").touch()
    return shared


async def ask(shared: Shared, method: str, path: str, headers: str = "") -> Answer:
    """One request below the folder."""
    async with open_server(shared.app()) as server:
        return await server.ask(method, f"{FOLDER}/{path}", headers=headers)


@pytest.mark.parametrize(
    "path",
    [
        "file",
        pytest.param("sub%20dir/..file%20%C3%A9", marks=pytest.mark.history(43)),
        *(
            pytest.param(path, marks=pytest.mark.fault("F59"))
            for path in ("/file", "./file", "sub%20dir//..file%20%C3%A9", "%2e/.//file")
        ),
    ],
)
async def test_a_file_is_given_as_it_is(shared: Shared, path: str) -> None:
    """GET gives the content, its length, and a type that a browser does not guess around."""
    answer = await ask(shared, "GET", path)
    assert (answer.status, answer.body) == (200, CONTENT)
    assert answer.headers["content-length"] == str(len(CONTENT))
    assert answer.headers["x-content-type-options"] == "nosniff"


async def test_an_empty_file_is_a_file(shared: Shared) -> None:
    """An empty file is served like any other."""
    answer = await ask(shared, "GET", "empty")
    assert (answer.status, answer.body) == (200, b"")


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("", 200),
        ("?hash=", 200),
        ("?hash_type=sha512", 200),
        (f"?hash={SHA256}", 304),
        (f"?hash={SHA256.upper()}", 304),
        (f"?hash={SHA256}&hash_type=sha256", 304),
        (f"?hash={SHA512}&hash_type=sha512", 304),
        (f"?hash={'0' * 64}", 200),
        (f"?hash={SHA512}", 400),
        (f"?hash={SHA256}&hash_type=sha512", 400),
        (f"?hash={SHA256}&hash_type=md5", 400),
        pytest.param("?hash_type=", 200, marks=pytest.mark.fault("F59")),
        pytest.param(f"?hash_type=&hash={SHA256}", 304, marks=pytest.mark.fault("F59")),
        pytest.param(f"?hash={'0' * 64}&hash={SHA256}", 304, marks=pytest.mark.fault("F59")),
        pytest.param(f"?hash={SHA256}&hash=", 200, marks=pytest.mark.fault("F59")),
        pytest.param(
            f"?hash_type=md5&hash={SHA512}&hash_type=sha512",
            304,
            marks=pytest.mark.fault("F59"),
        ),
        (f"?hash_type=sha256&hash_type=md5&hash={SHA256}", 400),
        (f"?hash={'g' * 64}", 400),
        (f"?hash={'%D9%A1' * 64}", 400),
        ("?hash=" + "a" * 5000, 400),
    ],
)
async def test_head_compares_hashes(shared: Shared, query: str, status: int) -> None:
    """HEAD shows whether the file differs from the client's."""
    answer = await ask(shared, "HEAD", f"file{query}")
    assert (answer.status, answer.body) == (status, b"")
    if status == 200:
        assert answer.headers["content-length"] == str(len(CONTENT))


@pytest.mark.parametrize("method", ["HEAD", "GET"])
@pytest.mark.parametrize(
    "path", ["nothing", "sub%20dir", "file/x", "sub%20dir/nothing", "file/", "file/.", "/", "./"]
)
async def test_no_such_file(shared: Shared, method: str, path: str) -> None:
    """Missing paths and directories are not found."""
    answer = await ask(shared, method, f"{path}?hash={SHA256}")
    assert answer.status == 404
    assert answer.body == (b"NOT FOUND" if method == "GET" else b"")


async def test_a_changed_file_has_another_hash(shared: Shared) -> None:
    """A hash is cached only while the file is unchanged."""
    path = shared.folder / "file"
    old = path.stat().st_mtime - 100
    async with open_server(shared.app()) as server:
        for content in (b"one", b"two", b"three"):
            path.write_bytes(content)
            os.utime(path, (old, old))
            digest = hashlib.sha256(content).hexdigest()
            old += 1
            for _ in range(2):
                answer = await server.ask("HEAD", f"{FOLDER}/file?hash={digest}")
                assert answer.status == 304


async def test_conditional_and_partial_requests(shared: Shared) -> None:
    """A client that has the file, or part of it, gets only the missing part."""
    async with open_server(shared.app()) as server:

        async def get(headers: str, method: str = "GET") -> Answer:
            return await server.ask(method, f"{FOLDER}/file", headers=headers)

        first = await get("")
        tag, date = first.headers["etag"], first.headers["last-modified"]
        for condition in (f"If-None-Match: {tag}\r\n", f"If-Modified-Since: {date}\r\n"):
            for method in ("GET", "HEAD"):
                assert (await get(condition, method)).status == 304
        assert (await get(f"If-Match: {tag}\r\n")).status == 200
        assert (await get('If-Match: "x"\r\n')).status == 412
        part = await get(f"Range: bytes=500000-500009\r\nIf-Range: {tag}\r\n")
        assert (part.status, part.body) == (206, CONTENT[500000:500010])
        assert part.headers["content-range"] == f"bytes 500000-500009/{len(CONTENT)}"
        assert (await get("Range: bytes=-7\r\n")).body == CONTENT[-7:]
        beyond = await get("Range: bytes=9999999-\r\n")
        assert beyond.status == 416
        assert beyond.headers["content-range"] == f"bytes */{len(CONTENT)}"
        whole = await get('Range: bytes=0-1\r\nIf-Range: "x"\r\n')
        assert (whole.status, whole.body) == (200, CONTENT)
        (shared.folder / "file").write_bytes(b"new")
        assert (await get(f"If-None-Match: {tag}\r\n")).status == 200


@pytest.mark.fault("A6")
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_nothing_else_is_reached(shared: Shared, method: str) -> None:
    """Hundreds of ways to leave the folder give 400 or 404, and never a secret."""
    (shared.root / "secret").write_text("CANARY")
    statuses = set()
    async with open_server(shared.app()) as server:
        for path in traversals():
            data = f"{method} {FOLDER}/{path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
            answer = await server.raw(data.encode())
            statuses.add(int(answer.split()[1]))
            assert b"CANARY" not in answer
            assert b"root:" not in answer
        assert await server.lives()
    assert statuses <= {400, 404, 414}


@pytest.mark.fault("A7")
@pytest.mark.parametrize(
    ("link", "target", "status"),
    [
        ("inside", "sub dir/..file é", 200),
        ("inside-absolute", "{folder}/file", 200),
        ("outside", "../secret", 404),
        ("outside-absolute", "{folder}/../secret", 404),
        ("directory", "..", 404),
        ("process", "/proc/self/environ", 404),
        ("device", "/dev/zero", 404),
    ],
)
async def test_links(shared: Shared, link: str, target: str, status: int) -> None:
    """Links are followed within the folder, but never out of it."""
    (shared.root / "secret").write_text("CANARY")
    (shared.folder / link).symlink_to(target.format(folder=shared.folder))
    path = f"{link}/secret" if link == "directory" else link
    for method in ("GET", "HEAD"):
        answer = await ask(shared, method, path)
        assert answer.status == status
        assert b"CANARY" not in answer.body


@pytest.mark.fault("A7")
async def test_a_fifo_is_not_found(shared: Shared) -> None:
    """A FIFO is not found, and blocks no request."""
    os.mkfifo(shared.folder / "fifo")
    assert (await ask(shared, "GET", "fifo")).status == 404


async def test_a_file_that_becomes_shorter_breaks_the_answer_off(shared: Shared) -> None:
    """The client sees an incomplete answer; one line is logged, and the service continues."""
    path = shared.folder / "large"
    with path.open("wb") as file:
        file.truncate(256 * 1024 * 1024)
    with capture_logs() as logs:
        async with open_server(shared.app()) as server:
            async with server.client() as client:
                await client.send(f"GET {FOLDER}/large HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                await client.stream.receive_some(1000)
                os.truncate(path, 1000)
                assert len(await client.until_closed()) < 256 * 1024 * 1024
            assert await server.lives()
    (line,) = [entry for entry in logs if entry["log_level"] not in {"debug", "info"}]
    assert (line["event"], line["log_level"]) == ("answer broken off", "warning")
    assert line["path"].endswith("/large")
    assert "shorter" in line["detail"]
    assert "exc_info" not in line


async def test_a_disconnect_closes_the_file(shared: Shared) -> None:
    """An aborted transfer closes its file."""
    with (shared.folder / "large").open("wb") as file:
        file.truncate(256 * 1024 * 1024)
    async with open_server(shared.app()) as server:
        before = descriptors()
        for _ in range(10):
            async with server.client() as client:
                await client.send(f"GET {FOLDER}/large HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                await client.stream.receive_some(1000)
                await client.reset()
        await eventually(lambda: descriptors() <= before)
        assert await server.lives()


async def test_a_read_error_is_a_server_error(
    shared: Shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A temporary read error is a logged server error, not a missing file."""

    def refuse(*_arguments: object) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(OpenFile, "read", refuse)
    with capture_logs() as logs:
        answer = await ask(shared, "HEAD", f"file?hash={SHA256}")
        monkeypatch.setattr("relayd.shared.reading.open_regular", refuse)
        other = await ask(shared, "GET", "file")
    assert (answer.status, other.status) == (500, 500)
    assert b"Errno" not in other.body
    assert [entry["event"] for entry in logs].count("file cannot be read") == 2
