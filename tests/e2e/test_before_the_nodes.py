"""Requests to a daemon that has not read its nodes list yet."""

import json
import os
import urllib.error
import urllib.request
from functools import partial
from pathlib import Path

import pytest
import trio

from tests.support.agent import PRINT_ARGUMENTS, agent
from tests.support.daemon import Site, open_daemon

BASE = "/rudder/relay-api/1"

pytestmark = pytest.mark.site(nodes=["node1"], database=False)


@pytest.fixture
def site(site: Site, tmp_path: Path) -> Site:
    """Return a root server without run logs, whose nodes list takes as long as the test wants."""
    command = agent(tmp_path / "rudder", PRINT_ARGUMENTS)
    site.extra["remote_run"] = f'command = "{command}"\nuse_sudo = false'
    site.write_conf()
    return site


def ask(port: int, method: str, path: str, body: bytes | None = None) -> tuple[int, str]:
    """Return status and body of an answer."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}{BASE}{path}", body, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


RUN = ("POST", "/remote-run/nodes/node1", b"keep_output=true")
ALL = ("POST", "/remote-run/all", b"keep_output=true")
FILE = ("HEAD", "/shared-files/node1/node1/file", None)


@pytest.mark.fault("F52")
async def test_requests_wait_for_the_nodes_list(site: Site) -> None:
    """What needs the list is answered once it is loaded, and the status is no success before."""
    text = site.nodes_list.read_text()
    site.nodes_list.unlink()
    os.mkfifo(site.nodes_list)
    answers: dict[str, tuple[int, str]] = {}

    async def one(method: str, path: str, body: bytes | None) -> None:
        answers[path] = await trio.to_thread.run_sync(ask, site.port, method, path, body)

    async with open_daemon(site, ready=None), trio.open_nursery() as nursery:
        status: dict[str, object] = {}
        while not status:
            try:
                _, found = await trio.to_thread.run_sync(ask, site.port, "GET", "/system/status")
            except urllib.error.URLError:
                await trio.sleep(0.02)
            else:
                status = json.loads(found)["data"]
        for request in (RUN, ALL, FILE):
            nursery.start_soon(one, *request)
        assert status["configuration"] == {
            "status": "error",
            "details": "the nodes list is still being read",
        }
        assert not answers
        await trio.to_thread.run_sync(site.nodes_list.write_text, text)
    assert answers.pop(FILE[1]) == (404, "")
    assert answers.pop(RUN[1]) == (200, "remote\nrun\n--\nnode1.test\n")
    status_of_all, output = answers.pop(ALL[1])
    assert (status_of_all, set(output.split()[-1].split(","))) == (
        200,
        {"node1.test", "root.test"},
    )


@pytest.mark.fault("F52")
@pytest.mark.parametrize("text", [None, "{"], ids=["missing", "broken"])
async def test_without_a_nodes_list_nothing_is_said_to_be_done(
    site: Site, text: str | None
) -> None:
    """Without a list that can be loaded, requests that need it are refused at once, with reason."""
    site.nodes_list.unlink()
    if text is not None:
        site.nodes_list.write_text(text)
    async with open_daemon(site, ready=r"nodes cannot be loaded"):
        for request in (RUN, ALL):
            status, body = await trio.to_thread.run_sync(partial(ask, site.port, *request))
            assert status == 503
            assert json.loads(body)["errorDetails"] == (
                "the nodes are not known yet: no nodes list is loaded, the log says why"
            )
        status, _ = await trio.to_thread.run_sync(partial(ask, site.port, *FILE))
        assert status == 503
