"""Shared files over HTTP: permissions, refusals and answers."""

import os
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from structlog.testing import capture_logs

from relayd.api import shared_files as module
from relayd.errors import NodesError
from relayd.fleet.current_nodes import CurrentNodes
from relayd.shared.expiry import sweep
from relayd.shared.metadata import parse_metadata
from relayd.shared.store import STAGE_PREFIX, Store
from relayd.shared.usage import Quota, Usage
from relayd.telemetry.metrics import Metrics, UploadOutcome
from tests.support.http import Answer, Server, descriptors, eventually, open_server
from tests.support.shared import (
    FILES,
    SOURCE,
    TARGET,
    Shared,
    joined,
    lines,
    make_shared,
    node,
    sha512,
    upload,
    write_nodes,
)
from tests.support.signing import make_key_and_cert
from tests.support.traversal import traversals

CONTENT = b"first line\n\nsecond line\n" * 1000
PATH = f"{TARGET}/{SOURCE}/file.conf"


@pytest.fixture
async def shared(tmp_path: Path) -> Shared:
    """An empty store."""
    return await make_shared(tmp_path)


async def put(
    server: Server, body: bytes, path: str = f"{PATH}?ttl=1h", headers: str = ""
) -> Answer:
    """Uploads a file."""
    return await server.ask("PUT", f"{FILES}/{path}", body, headers)


async def put_once(shared: Shared, body: bytes, path: str = f"{PATH}?ttl=1h") -> Answer:
    """Uploads a file to a separate server."""
    async with open_server(shared.app()) as server:
        return await put(server, body, path)


def outcomes(shared: Shared) -> dict[str, float]:
    """The counter of uploads, without zeros."""
    [family] = shared.metrics.shared_files.collect()
    samples = [sample for sample in family.samples if sample.value]
    return {sample.labels["outcome"]: sample.value for sample in samples}


def stages(shared: Shared) -> list[Path]:
    """The directories of unfinished uploads."""
    # Unlike rglob, os.walk ignores directories that are removed meanwhile.
    return [
        Path(parent, name)
        for parent, directories, _ in os.walk(shared.files)
        for name in directories
        if STAGE_PREFIX in name
    ]


@pytest.mark.history(37, 43)
@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
async def test_an_upload_is_stored_and_known(shared: Shared, algorithm: str) -> None:
    """Content and metadata are stored below `files`, and HEAD finds the hash of the content."""
    body = upload(CONTENT, algorithm=algorithm)
    async with open_server(shared.app()) as server:
        before = int(time.time())
        answer = await put(server, body)
        assert (answer.status, answer.body) == (200, b"")
        digest = lines(CONTENT, algorithm=algorithm)["hash_value"]
        for hash_value, status in ((digest, 200), (digest.upper(), 200), ("0" * 128, 404)):
            found = await server.ask("HEAD", f"{FILES}/{PATH}?hash={hash_value}")
            assert found.status == status
        for query in ("", "?hash="):
            assert (await server.ask("HEAD", f"{FILES}/{PATH}{query}")).status == 404
    pair = shared.pair("file.conf")
    assert pair is not None
    assert pair[0] == CONTENT
    expires = parse_metadata(pair[1]).expires
    assert expires is not None
    assert before + 3600 <= expires <= time.time() + 3600
    assert pair[1] == joined(lines(CONTENT, algorithm=algorithm)) + f"expires={expires}".encode()
    assert outcomes(shared) == {"stored": 1}


@pytest.mark.history(38)
async def test_the_expiry_sent_by_the_client_is_ignored(shared: Shared) -> None:
    """The time set by relayd replaces the one that was sent, and the file is still found."""
    sent = lines(CONTENT) | {"expires": "4000000000"}
    async with open_server(shared.app()) as server:
        body = joined(sent) + b"\n" + CONTENT
        assert (await put(server, body, f"{PATH}?ttl=10")).status == 200
        found = await server.ask("HEAD", f"{FILES}/{PATH}?hash={sha512(CONTENT)}")
        assert found.status == 200
    pair = shared.pair("file.conf")
    assert pair is not None
    assert pair[1].count(b"expires=") == 1
    assert (parse_metadata(pair[1]).expires or 0) < time.time() + 11


@pytest.mark.parametrize("content", [b"", b"\n", b"\n\n\n", b"x" * 700_000])
async def test_any_content_is_kept_byte_for_byte(shared: Shared, content: bytes) -> None:
    """The first empty line ends the metadata; everything after it is content."""
    assert (await put_once(shared, upload(content))).status == 200
    pair = shared.pair("file.conf")
    assert pair is not None
    assert pair[0] == content


async def test_an_upload_in_small_pieces(shared: Shared) -> None:
    """The sizes of the pieces of a body do not matter."""
    body = upload(b"c" * 100)
    head = f"PUT {FILES}/{PATH}?ttl=1d HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    async with open_server(shared.app()) as server, server.client() as client:
        await client.send(head.encode())
        for at in range(0, len(body), 7):
            await client.send(body[at : at + 7])
            await trio.lowlevel.checkpoint()
        assert (await client.answer("PUT")).status == 200


def corrupt(**changes: str) -> bytes:
    """An upload with other values in its metadata."""
    return joined(lines(CONTENT) | changes) + b"\n" + CONTENT


@pytest.mark.parametrize(
    ("body", "status", "outcome"),
    [
        (b"", 411, None),
        (b"no metadata", 400, "malformed"),
        (b"\n" + CONTENT, 400, "malformed"),
        (b"x" * 100_000, 400, "malformed"),
        (joined(lines(CONTENT)), 400, "malformed"),
        (corrupt(header="other"), 400, "malformed"),
        (corrupt(algorithm="md5"), 400, "malformed"),
        (corrupt(hostname="x" * 20_000), 400, "malformed"),
        (upload(CONTENT) + b"x", 500, "signature"),
        (upload(CONTENT)[:-1], 500, "signature"),
        (corrupt(digest="00" * 256), 500, "signature"),
        (corrupt(digest=lines(CONTENT, algorithm="sha256")["digest"]), 500, "signature"),
        pytest.param(
            corrupt(hash_value="0" * 128), 400, "mismatch", marks=pytest.mark.fault("C25")
        ),
        pytest.param(
            corrupt(hash_value=sha512(b"other")), 400, "mismatch", marks=pytest.mark.fault("C25")
        ),
        (upload(CONTENT, node("other")), 404, "unknown"),
        (corrupt(short_pubkey="QUJD"), 404, "unknown"),
    ],
)
async def test_a_bad_upload_changes_nothing(
    shared: Shared, body: bytes, status: int, outcome: str | None
) -> None:
    """It is refused with its status and counted; the earlier file stays, no other is left."""
    async with open_server(shared.app()) as server:
        assert (await put(server, upload(b"before"))).status == 200
        before = shared.pair("file.conf")
        answer = await put(server, body)
        assert answer.status == status
        assert await server.lives()
    assert shared.pair("file.conf") == before
    assert stages(shared) == []
    assert outcomes(shared) == {"stored": 1} | ({outcome: 1} if outcome else {})


async def test_unknown_source_and_wrong_key_look_the_same(shared: Shared) -> None:
    """The answer does not reveal which nodes exist."""
    answers = []
    async with open_server(shared.app()) as server:
        for path, sender in (
            (f"{TARGET}/stranger/f", node()),
            (f"{TARGET}/keyless/f", node()),
            (f"{TARGET}/{SOURCE}/f", node("other")),
        ):
            answer = await put(server, upload(CONTENT, sender), f"{path}?ttl=1d")
            answers.append((answer.status, answer.body, sorted(answer.headers)))
    assert answers[0][:2] == (404, b"NOT FOUND")
    assert answers[0] == answers[1] == answers[2]
    assert not shared.files.exists()


@pytest.mark.fault("A11")
@pytest.mark.parametrize(
    "query",
    [
        "",
        "?ttl",
        "?ttl=",
        "?ttl=-1",
        "?ttl=9e9",
        "?ttl=%C2%B2",
        "?ttl=1d&ttl=",
        "?ttl=" + "9" * 5000,
        "?ttl=%00",
        pytest.param("?ttl=18446744073709551615", marks=pytest.mark.history(41)),
    ],
)
async def test_a_bad_ttl_is_refused(shared: Shared, query: str) -> None:
    """Without a valid time to live nothing is written."""
    assert (await put_once(shared, upload(CONTENT), PATH + query)).status == 400
    assert not shared.files.exists()


@pytest.mark.fault("A8")
@pytest.mark.parametrize(
    "path",
    [
        pytest.param(f"{TARGET}/{SOURCE}/x.metadata", marks=pytest.mark.history(39)),
        pytest.param(f"{TARGET}/{SOURCE}/x.METADATA", marks=pytest.mark.history(39)),
        pytest.param(f"{TARGET}/../f", marks=pytest.mark.history(40)),
        pytest.param(f"{TARGET}/./f", marks=pytest.mark.history(40)),
        pytest.param(f"{TARGET}/{SOURCE}/..", marks=pytest.mark.history(40)),
        pytest.param(f"../{SOURCE}/f", marks=pytest.mark.history(40)),
        f"{TARGET}/{SOURCE}/file%0a",
        f"{TARGET}/{SOURCE}/%d9%a1",
        f"{TARGET}/{SOURCE}/" + "f" * 300,
        f"{TARGET}/{SOURCE}",
        f"{TARGET}/{SOURCE}/a/b",
        f"{TARGET}/{SOURCE}/a%2fb",
    ],
)
@pytest.mark.parametrize("method", ["PUT", "HEAD"])
async def test_bad_ids_are_refused(shared: Shared, path: str, method: str) -> None:
    """Invalid ids give 400, and nothing is written."""
    body = upload(CONTENT) if method == "PUT" else b""
    async with open_server(shared.app()) as server:
        answer = await server.ask(method, f"{FILES}/{path}?ttl=1d&hash=0", body)
    assert answer.status == 400
    assert not shared.files.exists()


@pytest.mark.fault("A6")
@pytest.mark.parametrize("method", ["PUT", "HEAD"])
async def test_paths_cannot_leave_the_directory(shared: Shared, method: str) -> None:
    """Hundreds of ways to leave the directory are refused, and nothing is written.

    Three of them are valid ids of an unknown target.
    """
    body = upload(b"x") if method == "PUT" else b""
    statuses: Counter[int] = Counter()
    async with open_server(shared.app()) as server:
        for path in traversals():
            head = (
                f"{method} {FILES}/{path}?ttl=1d&hash=0 HTTP/1.1\r\nHost: x\r\n"
                f"Connection: close\r\nContent-Length: {len(body)}\r\n\r\n"
            )
            statuses[int((await server.raw(head.encode() + body)).split()[1])] += 1
        assert await server.lives()
    assert statuses.pop(500) == 3
    assert set(statuses) <= {400, 414}
    assert not shared.files.exists()


@pytest.mark.parametrize("method", ["PUT", "HEAD"])
async def test_a_target_that_is_not_below_the_root_server(shared: Shared, method: str) -> None:
    """The root server has no policy server to forward it to."""
    body = upload(CONTENT) if method == "PUT" else b""
    async with open_server(shared.app()) as server:
        answer = await server.ask(method, f"{FILES}/nobody/{SOURCE}/f?ttl=1d&hash=0", body)
    assert answer.status == 500


async def test_before_the_nodes_are_known(shared: Shared) -> None:
    """Before a nodes list is loaded, refusals are temporary."""
    empty = CurrentNodes(
        shared.root / "none.json", shared.root / "none.pem", "root", shared.metrics
    )
    shared.trust = empty
    with pytest.raises(NodesError):
        await empty.load()
    assert (await put_once(shared, upload(CONTENT))).status == 503


async def test_a_node_that_becomes_known_may_upload(shared: Shared) -> None:
    """The current nodes count, not those at start."""
    newcomer = make_key_and_cert("newcomer")
    async with open_server(shared.app()) as server:
        path = f"{TARGET}/newcomer/f?ttl=1d"
        assert (await put(server, upload(CONTENT, newcomer), path)).status == 404
        write_nodes(shared.root / "nodeslist.json", [newcomer], TARGET)
        await shared.trust.load()
        assert (await put(server, upload(CONTENT, newcomer), path)).status == 200


@pytest.mark.fault("A2")
@pytest.mark.history(42)
@pytest.mark.parametrize(
    ("framing", "status"), [("too long", 413), ("none", 411), ("chunked", 411), ("at limit", 200)]
)
async def test_the_length_of_a_body(shared: Shared, framing: str, status: int) -> None:
    """A body that is too long or of unknown length gets its own status, before anything is read."""
    body = upload(CONTENT)
    shared.max_body = len(body) - (1 if framing == "too long" else 0)
    header = {
        "none": "",
        "chunked": "Transfer-Encoding: chunked\r\n",
    }.get(framing, f"Content-Length: {len(body)}\r\n")
    head = f"PUT {FILES}/{PATH}?ttl=1d HTTP/1.1\r\nHost: x\r\n{header}Connection: close\r\n\r\n"
    async with open_server(shared.app()) as server:
        answer = await server.raw(head.encode() + (body if status in (200, 413) else b""))
        assert await server.lives()
    assert answer.startswith(f"HTTP/1.1 {status} ".encode())
    assert (shared.pair("file.conf") is None) == (status != 200)


async def test_the_limit_applies_to_shared_files_only(shared: Shared) -> None:
    """A large upload is accepted here, while other routes accept a megabyte."""
    shared.max_body = 8 * 1024 * 1024
    assert (await put_once(shared, upload(b"x" * 4 * 1024 * 1024))).status == 200


@asynccontextmanager
async def held(server: Server, shared: Shared, count: int) -> AsyncIterator[trio.Event]:
    """Hold uploads of a source short of their last bytes until the event is set; all succeed."""
    body = upload(CONTENT)
    release, statuses = trio.Event(), Counter[int]()

    async def slowly(number: int) -> None:
        path = f"{FILES}/{TARGET}/{SOURCE}/held{number}?ttl=1d"
        head = f"PUT {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        async with server.client() as client:
            await client.send(head.encode() + body[:-10])
            await release.wait()
            await client.send(body[-10:])
            statuses[(await client.answer("PUT")).status] += 1

    async with trio.open_nursery() as nursery:
        before = len(stages(shared))
        for number in range(count):
            nursery.start_soon(slowly, number)
        await eventually(lambda: len(stages(shared)) >= before + count)
        yield release
        release.set()
    assert statuses == {200: count}


@pytest.mark.fault("F58")
@pytest.mark.parametrize("count", [10, 50])
async def test_many_uploads_of_one_source_at_once(shared: Shared, count: int) -> None:
    """All of them succeed, though only some are received at the same time."""
    statuses: Counter[int] = Counter()
    async with open_server(shared.app()) as server:

        async def send(number: int) -> None:
            body = upload(b"%d" % number)
            statuses[(await put(server, body, f"{TARGET}/{SOURCE}/f{number}?ttl=1d")).status] += 1

        async with trio.open_nursery() as nursery:
            for number in range(count):
                nursery.start_soon(send, number)
    assert statuses == {200: count}
    assert shared.usage.total(SOURCE)[0] == count
    assert stages(shared) == []


@pytest.mark.fault("A3", "F58")
async def test_excess_uploads_wait_and_are_then_rejected(
    shared: Shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that has its share waits, is rejected in the end, and does not delay other nodes."""
    monkeypatch.setattr(module, "UPLOADS", replace(module.UPLOADS, each=2, wait_s=0.2))
    async with (
        open_server(shared.app()) as server,
        held(server, shared, module.UPLOADS.each) as release,
    ):
        answer = await put(server, upload(CONTENT))
        assert answer.status == 503
        other = upload(CONTENT, node("other"))
        assert (await put(server, other, f"{TARGET}/other/f?ttl=1d")).status == 200
        release.set()
        assert (await put(server, upload(CONTENT))).status == 200
    assert outcomes(shared) == {"busy": 1, "stored": 2 + module.UPLOADS.each}


@pytest.mark.fault("F58")
async def test_slow_uploads_give_their_places_back(
    shared: Shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clients that stop sending are ended, so that those who wait get their turn."""
    monkeypatch.setattr(module, "UPLOADS", replace(module.UPLOADS, each=2))
    monkeypatch.setattr(module, "PATIENCE_S", 0.3)
    body = upload(CONTENT)
    head = f"PUT {FILES}/{PATH}?ttl=1d HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    async with open_server(shared.app()) as server, trio.open_nursery() as nursery:
        for _ in range(module.UPLOADS.each):
            nursery.start_soon(server.raw, head.encode() + body[:-10])
        await eventually(lambda: len(stages(shared)) >= module.UPLOADS.each)
        assert (await put(server, body)).status == 200
    assert outcomes(shared) == {"slow": 2, "stored": 1}


@pytest.mark.fault("F21")
@pytest.mark.parametrize(
    ("quota", "said"),
    [
        (Quota(files=2), "the source has 2 files; at most 2 are kept"),
        (Quota(size=2 * len(CONTENT)), f"at most {2 * len(CONTENT)} are kept"),
    ],
)
async def test_a_source_has_a_bounded_share(shared: Shared, quota: Quota, said: str) -> None:
    """Beyond number or bytes a source may replace its files and others may upload, it may not."""
    shared.usage = Usage(quota)
    path = f"{TARGET}/{SOURCE}/f"
    with capture_logs() as logs:
        async with open_server(shared.app()) as server:
            for name, status in (("0", 200), ("1", 200), ("2", 507), ("1", 200)):
                answer = await put(server, upload(CONTENT), f"{path}{name}?ttl=1d")
                assert answer.status == status
                assert (b"too many files" in answer.body) == (status == 507)
            other = f"{TARGET}/other/f?ttl=1d"
            assert (await put(server, upload(CONTENT, node("other")), other)).status == 200
            await trio.to_thread.run_sync(sweep, Store(shared.files), 4e9, shared.usage)
            assert (await put(server, upload(CONTENT), f"{path}2?ttl=1d")).status == 200
    assert outcomes(shared) == {"stored": 5, "quota": 1}
    [line] = [entry for entry in logs if entry.get("reason") == "quota"]
    assert said in line["detail"]


@pytest.mark.fault("F21")
async def test_a_long_time_to_live_is_shortened(shared: Shared) -> None:
    """The client gets its 200, and the file is kept as long as the configuration allows."""
    shared.max_ttl = 60.0
    before = int(time.time())
    assert (await put_once(shared, upload(CONTENT), f"{PATH}?ttl=100y")).status == 200
    pair = shared.pair("file.conf")
    assert pair is not None
    assert before + 60 <= (parse_metadata(pair[1]).expires or 0) <= time.time() + 60


@pytest.mark.fault("F59")
async def test_what_the_original_accepts_in_addresses(shared: Shared) -> None:
    """Of a repeated parameter the last one counts, and a slash may follow the names."""
    async with open_server(shared.app()) as server:
        assert (await put(server, upload(CONTENT), f"{PATH}/?ttl=x&ttl=1d+2h")).status == 200
        for query, status in (("hash=0&hash={}", 200), ("hash={}&hash=0", 404)):
            path = f"{FILES}/{PATH}/?{query.format(sha512(CONTENT))}"
            assert (await server.ask("HEAD", path)).status == status
        assert (await put(server, upload(CONTENT), f"{PATH}?ttl=1d&ttl=")).status == 400
    pair = shared.pair("file.conf")
    assert pair is not None
    assert (parse_metadata(pair[1]).expires or 0) > time.time() + 93_000


@pytest.mark.fault("F15")
async def test_an_unknown_metadata_line_is_passed_over(shared: Shared) -> None:
    """Metadata of a newer agent, or edited by hand, are stored without what is not known."""
    sent = b"# by hand\nnewkey=1\nnewkey=2\n" + joined(lines(CONTENT)) + b"no equals sign\n\xff\n"
    assert (await put_once(shared, sent + b"\n" + CONTENT)).status == 200
    pair = shared.pair("file.conf")
    assert pair is not None
    assert pair[0] == CONTENT
    assert pair[1].startswith(joined(lines(CONTENT)) + b"expires=")


@pytest.mark.fault("A10")
async def test_uploads_of_one_id_at_once(shared: Shared) -> None:
    """One of them is stored completely."""
    contents = [str(number).encode() * 20_000 for number in range(module.UPLOADS.each)]
    async with open_server(shared.app()) as server:
        for _ in range(12):
            async with trio.open_nursery() as nursery:
                for content in contents:
                    nursery.start_soon(put, server, upload(content))
            pair = shared.pair("file.conf")
            assert pair is not None
            assert pair[0] in contents
            assert parse_metadata(pair[1]).hash_value == sha512(pair[0])
    assert stages(shared) == []


async def test_an_upload_that_is_too_slow(shared: Shared, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that stops sending does not block other uploads."""
    monkeypatch.setattr(module, "PATIENCE_S", 0.05)
    body = upload(CONTENT)
    head = f"PUT {FILES}/{PATH}?ttl=1d HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    async with open_server(shared.app()) as server:
        assert (await server.raw(head.encode() + body[:-10])).startswith(b"HTTP/1.1 408 ")
    assert outcomes(shared) == {"slow": 1}
    assert stages(shared) == []


async def test_a_disconnect_leaves_no_file_behind(shared: Shared) -> None:
    """An aborted upload changes nothing and keeps no file open."""
    body = upload(CONTENT * 30)
    head = f"PUT {FILES}/{PATH}?ttl=1d HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    async with open_server(shared.app()) as server:
        assert (await put(server, upload(b"before"))).status == 200
        before = descriptors()
        for _ in range(10):
            async with server.client() as client:
                await client.send(head.encode() + body[:-10])
                await eventually(lambda: bool(stages(shared)))
                await client.reset()
            await eventually(lambda: not stages(shared))
        await eventually(lambda: descriptors() <= before)
        assert await server.lives()
    pair = shared.pair("file.conf")
    assert pair is not None
    assert pair[0] == b"before"


@pytest.mark.history(45)
async def test_details_of_errors_are_logged_but_not_answered(shared: Shared) -> None:
    """The log has the fault and its place; the client learns only that there is a fault."""
    shared.files.mkdir()
    (shared.files / TARGET).write_text("in the way")
    with capture_logs() as logs:
        answer = await put_once(shared, upload(CONTENT))
    assert answer.status == 500
    assert b"could not be stored" in answer.body
    assert b"Errno" not in answer.body
    assert TARGET.encode() not in answer.body
    [line] = [entry for entry in logs if entry["log_level"] == "error"]
    assert (line["file"], line["reason"]) == (PATH, "store")
    assert "Not a directory" in line["detail"]
    assert outcomes(shared) == {"store": 1}


def test_every_outcome_is_exported_from_the_start() -> None:
    """The metric has a value for each outcome before the first upload."""
    text = Metrics().render().decode()
    for outcome in UploadOutcome:
        assert f'rudder_relayd_shared_files_total{{outcome="{outcome.value}"}} 0.0' in text


async def test_every_refusal_has_its_line(shared: Shared) -> None:
    """Node, file and reason are logged once per upload."""
    with capture_logs() as logs:
        await put_once(shared, upload(CONTENT) + b"x")
    [line] = [entry for entry in logs if entry["event"] == "shared file refused"]
    assert (line["node"], line["file"], line["reason"]) == (SOURCE, PATH, "signature")


async def test_a_file_with_broken_metadata_is_not_found(shared: Shared) -> None:
    """Broken metadata of another program count as missing and are logged."""
    await put_once(shared, upload(CONTENT))
    (shared.place / "file.conf.metadata").write_bytes(b"hash_value=0\n")
    os.mkfifo(shared.place / "other.metadata")
    (shared.place / "other").write_text("x")
    with capture_logs() as logs:
        async with open_server(shared.app()) as server:
            for file in ("file.conf", "other"):
                path = f"{TARGET}/{SOURCE}/{file}"
                assert (await server.ask("HEAD", f"{FILES}/{path}?hash=0")).status == 404
    assert "metadata cannot be read" in [entry["event"] for entry in logs]
