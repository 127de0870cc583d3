"""Answers to unknown paths, and to errors inside the app."""

import pytest
from structlog.testing import capture_logs

from relayd.api.status import StatusReport
from tests.support.http import BASE, api, open_server


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
