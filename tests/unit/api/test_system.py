"""The routes about relayd itself, over a real socket."""

import pytest
import trio
import trio.testing

from relayd.api.status import DatabaseCheck, StatusCheck, StatusReport
from relayd.errors import NodesError
from relayd.telemetry.metrics import Metrics
from tests.support.http import BASE, api, healthy, open_server
from tests.support.metrics import samples


@pytest.mark.fault("F1")
async def test_info_has_the_version() -> None:
    """The version is given in the two forms that tools expect."""
    async with open_server(api()) as server:
        answer = await server.ask("GET", f"{BASE}/system/info")
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.body == (
        b'{"data":{"major-version":"1.2","full-version":"1.2.3"},'
        b'"result":"success","action":"getSystemInfo"}'
    )


@pytest.mark.fault("F1")
@pytest.mark.history(66)
@pytest.mark.parametrize(
    ("report", "data"),
    [
        (
            StatusReport(configuration=StatusCheck("success")),
            b'"configuration":{"status":"success"}',
        ),
        (
            StatusReport(
                configuration=StatusCheck("success"), database=DatabaseCheck("error", "refused")
            ),
            (
                b'"database":{"status":"error","details":"refused"},'
                b'"configuration":{"status":"success"}'
            ),
        ),
        (
            StatusReport(
                configuration=StatusCheck("error", "main.conf: bad"),
                database=DatabaseCheck("success"),
            ),
            (
                b'"database":{"status":"success"},'
                b'"configuration":{"status":"error","details":"main.conf: bad"}'
            ),
        ),
    ],
)
async def test_status_has_exactly_the_keys_that_apply(report: StatusReport, data: bytes) -> None:
    """The database is included only if that output is on, details only for errors."""

    async def status() -> StatusReport:
        await trio.lowlevel.checkpoint()
        return report

    async with open_server(api(status=status)) as server:
        answer = await server.ask("GET", f"{BASE}/system/status")
    assert answer.status == 200
    assert answer.body == b'{"data":{%b},"result":"success","action":"getStatus"}' % data


@pytest.mark.history(34)
async def test_a_slow_status_does_not_delay_others() -> None:
    """While one client waits for the status, another gets its answer."""
    asked, answers = trio.Event(), trio.Event()

    async def status() -> StatusReport:
        asked.set()
        await answers.wait()
        return await healthy()

    async with open_server(api(status=status)) as server, server.client() as waiting:
        await waiting.send(b"GET /rudder/relay-api/1/system/status HTTP/1.1\r\nHost: x\r\n\r\n")
        await asked.wait()
        assert await server.lives()
        answers.set()
        assert (await waiting.answer()).status == 200


@pytest.mark.fault("F1")
async def test_a_successful_reload_is_reported() -> None:
    """The answer to a successful reload has neither data nor details."""
    async with open_server(api()) as server:
        answer = await server.ask("POST", f"{BASE}/system/reload")
    assert answer.status == 200
    assert answer.body == b'{"result":"success","action":"reloadConfiguration"}'


@pytest.mark.fault("F1", "F60")
async def test_a_failed_reload_is_reported_with_its_cause() -> None:
    """The reason of a failed reload reaches the client."""

    async def reload() -> None:
        await trio.lowlevel.checkpoint()
        raise NodesError("nodeslist.json: cut short at byte 12")

    async with open_server(api(reload=reload)) as server:
        answer = await server.ask("POST", f"{BASE}/system/reload")
    assert answer.status == 500
    assert answer.body == (
        b'{"result":"error","action":"reloadConfiguration",'
        b'"errorDetails":"nodeslist.json: cut short at byte 12"}'
    )


@pytest.mark.fault("A22")
async def test_reloads_at_once_are_one_reload() -> None:
    """A hundred requests during a reload share the one that follows it."""
    runs, asked = 0, 0
    all_asked, first_may_end = trio.Event(), trio.Event()

    async def reload() -> None:
        nonlocal runs
        runs += 1
        await first_may_end.wait()

    app = api(reload=reload)

    @app.before_request
    async def count() -> None:
        nonlocal asked
        asked += 1
        if asked == 100:
            all_asked.set()

    async with open_server(app) as server, trio.open_nursery() as nursery:
        statuses = []

        async def ask() -> None:
            statuses.append((await server.ask("POST", f"{BASE}/system/reload")).status)

        for _ in range(100):
            nursery.start_soon(ask)
        await all_asked.wait()
        await trio.testing.wait_all_tasks_blocked()
        first_may_end.set()
    assert statuses == [200] * 100
    assert runs == 2


@pytest.mark.fault("A23")
@pytest.mark.history(67)
async def test_metrics_are_a_valid_exposition() -> None:
    """Prometheus' own parser reads the page, including backlog and insecure mode."""
    metrics = Metrics()
    metrics.spool_files.set(7)
    metrics.spool_oldest_seconds.set(90.5)
    metrics.peer_authentication_disabled.set(1)
    async with open_server(api(metrics=metrics)) as server:
        answer = await server.ask("GET", "/metrics")
    assert answer.status == 200
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    values = {sample.name: sample.value for sample in samples(answer.body)}
    assert values["rudder_relayd_spool_files"] == 7
    assert values["rudder_relayd_spool_oldest_seconds"] == 90.5
    assert values["rudder_relayd_peer_authentication_disabled"] == 1
    assert values["rudder_relayd_reports_size_bytes_count"] == 0
