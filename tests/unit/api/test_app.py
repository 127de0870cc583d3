"""Answers to unknown paths, and to errors inside the app."""

from pathlib import Path

import pytest
import trio
from structlog.testing import capture_logs

from relayd.api.app import Services, make_app
from relayd.api.shared_files import SharedFiles
from relayd.api.status import StatusReport
from relayd.fleet.nodes import Nodes
from relayd.shared.store import Store
from relayd.telemetry.metrics import Metrics
from tests.support.http import BASE, api, healthy, nothing, open_server
from tests.support.remote_run import make_lab_runs
from tests.support.shared import SOURCE, make_shared


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("GET", "/nope"),
        ("GET", BASE),
        ("GET", f"{BASE}/system"),
        ("GET", f"{BASE}/system/info//"),
        ("GET", f"{BASE}/system//info"),
        ("GET", f"{BASE}//system/info"),
        ("GET", f"{BASE}/system/reload"),
        ("POST", f"{BASE}/system/info"),
        ("PUT", f"{BASE}/system/reload"),
        ("OPTIONS", f"{BASE}/system/info"),
        ("TRACE", "/metrics"),
        ("PATCH", "/metrics"),
        ("GET", "/static/x"),
        ("GET", "/%00"),
        ("GET", "/%ff%fe"),
        ("GET", "/metrics/..%2f..%2fetc%2fpasswd"),
    ],
)
async def test_unknown_path_or_method_is_not_found(method: str, path: str) -> None:
    """Every unknown path and method gets the same answer."""
    async with open_server(api()) as server:
        answer = await server.ask(method, path)
    assert (answer.status, answer.body) == (404, b"NOT FOUND")


@pytest.mark.fault("F59")
@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/metrics", 200),
        ("GET", f"{BASE}/system/info", 200),
        ("GET", f"{BASE}/system/status", 200),
        ("POST", f"{BASE}/system/reload", 200),
        ("GET", f"{BASE}/openapi.json", 200),
        ("POST", f"{BASE}/remote-run/all", 200),
        ("POST", f"{BASE}/remote-run/nodes", 400),
        ("POST", f"{BASE}/remote-run/nodes/x", 200),
        ("HEAD", f"{BASE}/shared-files/{SOURCE}/{SOURCE}/file", 404),
        ("HEAD", f"{BASE}/shared-files/{SOURCE}/{SOURCE}/file?hash=x", 404),
    ],
)
async def test_one_slash_at_the_end_makes_no_difference(
    tmp_path: Path, method: str, path: str, status: int
) -> None:
    """Every route answers with a slash at its end as without, and not with two."""
    shared = await make_shared(tmp_path)
    files = SharedFiles(
        Store(tmp_path / "files"), shared.trust, shared.metrics, shared.usage, 1024, 3600.0
    )
    runs = make_lab_runs(tmp_path / "none", Nodes("root"))
    app = make_app(Services(healthy, nothing, Metrics(), "1.2.3", runs, shared_files=files))
    body = b"x=1" if method == "POST" else b""
    route, mark, query = path.partition("?")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(runs.run)
        async with open_server(app) as server:
            plain = await server.ask(method, path, body)
            slash = await server.ask(method, f"{route}/{mark}{query}", body)
            two = await server.ask(method, f"{route}//{mark}{query}", body)
        nursery.cancel_scope.cancel()
    assert (plain.status, slash.status) == (status, status)
    assert slash.headers.keys() == plain.headers.keys()
    assert two.status in (404, 400)


async def test_head_is_answered_like_get_without_a_body() -> None:
    """HEAD gets the status that GET would get."""
    async with open_server(api()) as server, server.client() as client:
        answer = await client.ask("HEAD", "/metrics")
        assert (answer.status, answer.body) == (200, b"")
        assert (await client.ask("GET", "/metrics")).status == 200


@pytest.mark.fault("F1")
async def test_a_bug_in_a_handler_stays_in_the_log() -> None:
    """An unexpected exception gives 500 without details; its traceback is logged."""

    async def status() -> StatusReport:
        raise KeyError("secret-detail")

    with capture_logs() as logs:
        async with open_server(api(status=status)) as server:
            answer = await server.ask("GET", f"{BASE}/system/status")
            assert await server.lives()
    assert answer.status == 500
    assert answer.body == (
        b'{"result":"error","action":"getStatus","errorDetails":"Internal Server Error"}'
    )
    [failed] = [entry for entry in logs if entry["log_level"] == "error"]
    assert failed["event"] == "request failed"
    assert failed["detail"] == "KeyError"
    assert "secret-detail" in str(failed["exc_info"])


@pytest.mark.parametrize("path", ["/a\x1b[31m", "/" + "b" * 5000])
async def test_a_path_is_shown_escaped_and_short(path: str) -> None:
    """The path of a request can neither forge nor flood the log."""
    app = api()

    @app.get("/<anything>")
    async def broken(anything: str) -> str:
        raise KeyError(anything)

    quoted = path.replace("\x1b", "%1b")
    with capture_logs() as logs:
        async with open_server(app) as server:
            assert (await server.ask("GET", quoted)).status == 500
    [failed] = [entry for entry in logs if entry["log_level"] == "error"]
    assert failed["path"].isprintable()
    assert len(failed["path"]) <= 201
