"""The API conforms to its own description, with generated requests over a real socket."""

import json
import math
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
import trio
from hypothesis import HealthCheck, settings
from schemathesis.checks import CheckFunction
from schemathesis.specs.openapi import checks

from relayd.api.app import make_app
from relayd.api.openapi import read_document
from relayd.api.shared_files import SharedFiles
from relayd.api.shared_folder import SharedFolder
from relayd.api.system import Services
from relayd.errors import NodesError
from relayd.overview.documents import as_document
from relayd.overview.one_node import HopState
from relayd.remote_run.runs import RemoteRuns
from relayd.shared.store import Store
from tests.support.agent import agent
from tests.support.http import BASE, api, healthy, nothing, open_server
from tests.support.project import DOCS
from tests.support.remote_run import make_lab_runs
from tests.support.shared import Shared, make_shared

DOCUMENT = json.loads(read_document())
SCHEMA = schemathesis.openapi.from_dict(DOCUMENT)
#: Checks of each answer: its status, content type and body must be documented.
CHECKS: list[CheckFunction] = [
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
]


async def _serve(
    root: Path, urls: list[str], begun: threading.Event, stop: threading.Event
) -> None:
    shared = await make_shared(root)
    (shared.folder / "x").write_bytes(b"content")
    runs = make_lab_runs(agent(root / "rudder", "echo hi"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(runs.run)
        async with open_server(make_app(_services(shared, runs)), watchdog=math.inf) as server:
            urls.append(server.urls[0])
            begun.set()
            await trio.to_thread.run_sync(stop.wait)
        nursery.cancel_scope.cancel()


def _services(shared: Shared, runs: RemoteRuns) -> Services:
    """All parts of the API."""
    files = SharedFiles(
        Store(shared.files),
        shared.trust,
        shared.metrics,
        shared.usage,
        shared.max_body,
        shared.max_ttl,
    )
    folder = SharedFolder(shared.folder)
    return Services(
        healthy, nothing, shared.metrics, "1.2.3", runs, folder, files, ask_way=_ask_way
    )


async def _ask_way(node_id: str, _passed: int) -> dict[str, Any] | None:
    """As `relayd.overview.way.Way.answer`: of some nodes something, of others nothing."""
    await trio.lowlevel.checkpoint()
    if len(node_id) % 3 == 1:
        raise NodesError("no nodes list")
    hops = [HopState(relay="r1", last_arrival=1.5), HopState(relay="r2", trouble="not asked")]
    return {"hops": [as_document(hop) for hop in hops]} if len(node_id) % 3 else None


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The real app with all its parts, served by a separate thread."""
    urls: list[str] = []
    begun, stop = threading.Event(), threading.Event()
    root = tmp_path_factory.mktemp("openapi")
    thread = threading.Thread(target=trio.run, args=(_serve, root, urls, begun, stop))
    thread.start()
    try:
        assert begun.wait(30)
        yield urls[0]
    finally:
        stop.set()
        thread.join(30)


@SCHEMA.parametrize()
@settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
def test_every_answer_is_in_the_document(case: "schemathesis.Case[Any]", url: str) -> None:
    """For every request, status, content type and body are documented."""
    case.call_and_validate(base_url=url, checks=CHECKS)


def test_server_errors_are_those_of_the_contract() -> None:
    """Only cases fixed by the contract are answered with 5xx."""
    found = {
        (operation["operationId"], int(status))
        for path in DOCUMENT["paths"].values()
        for operation in path.values()
        if isinstance(operation, dict)
        for status in operation["responses"]
        if status.startswith("5")
    }
    runs = ("remoteRunNode", "remoteRunNodes", "remoteRunAll")
    assert found == {
        ("reloadConfiguration", 500),
        ("getSharedFolder", 500),
        ("headSharedFolder", 500),
        *((run, status) for run in runs for status in (500, 503, 508)),
        *(("getRemoteRunStatus", status) for status in (503, 508)),
        *(("putSharedFile", status) for status in (500, 502, 503, 507)),
        *(("headSharedFile", status) for status in (500, 502, 503)),
    }


async def test_the_document_has_every_route_and_no_other(tmp_path: Path) -> None:
    """Paths and methods of the document are those of the complete app."""
    runs = make_lab_runs(tmp_path / "rudder")
    app = make_app(_services(await make_shared(tmp_path), runs))
    served = {
        (_plain(rule.rule), method.lower())
        for rule in app.url_map.iter_rules()
        for method in rule.methods or ()
        if method != "HEAD" or "<rest:" in rule.rule
    }
    written = {
        (_plain(path), method)
        for path, item in DOCUMENT["paths"].items()
        for method in item
        if method in {"get", "head", "put", "post"}
    }
    assert served == written


def _plain(path: str) -> str:
    """A path with one mark for each variable part."""
    return re.sub(r"(/(<[^>]*>|\{[^}]*\}))+$", "/*", path)


async def test_the_document_is_served(tmp_path: Path) -> None:
    """Clients get the document, and docs/ contains the same."""
    async with open_server(api()) as server:
        answer = await server.ask("GET", f"{BASE}/openapi.json")
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    assert json.loads(answer.body) == DOCUMENT
    kept = DOCS / "openapi.json"
    assert kept.read_bytes() == answer.body


def test_the_page_for_people_has_the_same_routes_and_statuses() -> None:
    """docs/api.md has a section for each operation with a table of exactly its statuses."""
    page = (DOCS / "api.md").read_text()
    documented = {}
    for section in re.split(r"^##", page, flags=re.MULTILINE):
        heading, _, text = section.partition("\n")
        _, _, table = text.partition("| status | |\n| --- | --- |\n")
        statuses = set(re.findall(r"^\| ([0-9]{3}) \|", table, re.MULTILINE))
        for method, path in re.findall(r"`([A-Z]+) (/[^`]*)`", heading):
            documented[method.lower(), re.sub(r"(/[A-Z]+)+$", "/*", path)] = statuses
    written = {
        (method, _plain(path.removeprefix(BASE))): set(operation["responses"])
        for path, item in DOCUMENT["paths"].items()
        for method, operation in item.items()
        if method in {"get", "head", "put", "post"}
    }
    assert documented == written
