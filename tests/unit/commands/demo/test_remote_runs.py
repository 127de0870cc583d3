"""The demo's remote runs: the answer is read, and the agents are counted."""

import json
from collections.abc import AsyncIterator

import pytest
from quart import Response, request
from quart_trio import QuartTrio

from relayd.commands.demo.ledger import Entry
from relayd.commands.demo.remote_runs import RemoteRunClient
from tests.support.http import BASE, open_server

EVENTS = [
    *({"event": "queued", "relay": "root", "node": node} for node in "abcd"),
    {"event": "started", "relay": "root", "node": "a"},
    {"event": "output", "relay": "root", "output": "a: agent runs"},
    {"event": "exit", "relay": "root", "node": "a", "code": 0},
    {"event": "output", "relay": "other", "output": "b: agent runs"},
    {"event": "exit", "relay": "other", "node": "b", "code": 0, "nodes": 2},
    {"event": "exit", "relay": "other", "node": "c", "code": 3, "nodes": 2},
    {"event": "unreachable", "relay": "root", "node": "d", "detail": "no way"},
]


def answering(status: int = 200) -> QuartTrio:
    """Return a relayd that answers remote runs with `EVENTS`, in pieces that are not lines."""
    app = QuartTrio(__name__, static_folder=None)

    @app.post(f"{BASE}/remote-run/all")
    async def run_all() -> Response:
        assert request.headers["Accept"] == "application/x-ndjson"
        form = await request.form
        assert form.to_dict() == {"asynchronous": "true", "keep_output": "true"}

        async def pieces() -> AsyncIterator[bytes]:
            text = "".join(json.dumps(event) + "\n" for event in EVENTS).encode()
            for begin in range(0, len(text), 50):
                yield text[begin : begin + 50]

        return Response(pieces(), status=status)

    return app


async def test_verdicts_are_counted_and_output_is_shown() -> None:
    """Agents that succeeded are counted over all runs, and the last output is available."""
    async with open_server(answering()) as server:
        runs = RemoteRunClient(server.port, 4)
        assert runs.progress() == "none finished yet"
        for number in (1, 2):
            await runs.run()
            assert runs.progress().startswith(f"run {number}: 2 of 4 agents in ")
    assert list(runs.output) == ["a: agent runs", "b: agent runs"] * 2
    assert runs.entry() == Entry("agents run by remote runs", 8, 4, "agents run")
    assert runs.curl.endswith(f"127.0.0.1:{server.port}{BASE}/remote-run/all")


@pytest.mark.parametrize("status", [404, 503])
async def test_a_refused_run_does_not_balance(status: int) -> None:
    """No agent counts as run if relayd refuses the remote run."""
    async with open_server(answering(status)) as server:
        runs = RemoteRunClient(server.port, 4)
        await runs.run()
    assert runs.entry() == Entry("agents run by remote runs", 4, 0, "agents run")


async def test_a_run_without_relayd_does_not_balance() -> None:
    """No agent counts as run if relayd cannot be reached."""
    async with open_server(answering()) as server:
        port = server.port
    runs = RemoteRunClient(port, 4)
    await runs.run()
    assert not runs.entry().balanced
