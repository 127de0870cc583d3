"""The routes of remote runs and of the tree of tasks, over a real control socket."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from quart import Blueprint

from relayd.control.app import make_control_app
from relayd.control.client import Control, ControlError
from relayd.control.run import run_blueprint
from relayd.control.server import run_control
from relayd.control.tasks import tasks_blueprint
from relayd.fleet.peers.client import Clients
from relayd.telemetry.metrics import Metrics
from tests.support.agent import PRINT_ARGUMENTS, agent
from tests.support.daemon import eventually
from tests.support.remote_run import make_lab_runs, make_nodes

NODES = make_nodes(["web-1", "web-12"], {"relay": ["below"]})


@asynccontextmanager
async def _listening(path: Path, blueprints: Sequence[Blueprint]) -> AsyncIterator[Control]:
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        make = partial(make_control_app, blueprints)
        nursery.start_soon(run_control, path, make, stop, 1.0, name="control")
        await eventually(path.exists)
        yield Control(path)
        stop.set()


async def _lines(control: Control, **body: object) -> list[dict[str, Any]]:
    return await trio.to_thread.run_sync(lambda: list(control.lines("/run", body)))


async def test_events_begin_with_the_names_of_all_who_take_part(place: Path) -> None:
    """This server comes first, then each node with the relays on its route, each once."""
    clients = Clients()
    command = agent(place / "rudder", PRINT_ARGUMENTS)
    runs = make_lab_runs(command, NODES, clients, Metrics())
    path = place / "control.sock"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(runs.run)
        async with _listening(path, [run_blueprint(runs, lambda: NODES)]) as control:
            # A part of a name, and the same node once more by its id.
            body = {"nodes": ["web-12", "below.t", "below"], "conditions": ["c1", "c2"]}
            events = await _lines(control, **body)
            count = await trio.to_thread.run_sync(control.get, "/run")
        nursery.cancel_scope.cancel()
    await clients.aclose()
    names = [(one["node"], one["hostname"]) for one in events if one["event"] == "node"]
    assert names == [(node, f"{node}.test") for node in ("root", "web-12", "below", "relay")]
    assert [one["event"] for one in events[:4]] == ["node"] * 4
    assert "c1,c2" in [one["output"] for one in events if one["event"] == "output"]
    verdicts = {one["node"]: one["event"] for one in events[4:] if one["event"] != "queued"}
    assert verdicts == {"web-12": "exit", "below": "hop_error"}
    assert count == {"nodes": 5}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "expected either nodes or all"),
        ({"nodes": ["web-1"], "all": True}, "expected either nodes or all"),
        ({"nodes": ["web"]}, "web: 2 nodes fit: web-1.test, web-12.test"),
        ({"nodes": ["nobody"]}, "nobody: no node has this"),
        ({"nodes": ["n"] * 1001}, "more than 1000 nodes"),
        ({"all": True, "conditions": ["-x"]}, "invalid condition: -x"),
        ({"all": True, "more": 1}, "unknown field `more`"),
    ],
)
async def test_what_cannot_be_run_is_an_answer_with_the_reason(
    place: Path, body: dict[str, object], said: str
) -> None:
    """Nothing is started for a request that is not understood; the client gets one line."""
    runs = make_lab_runs(place / "none", NODES, Clients(), Metrics())
    blueprint = run_blueprint(runs, lambda: NODES)
    async with _listening(place / "control.sock", [blueprint]) as control:
        with pytest.raises(ControlError, match=said) as caught:
            await _lines(control, **body)
    assert caught.value.status == 400


async def test_remote_runs_that_are_switched_off_are_refused(place: Path) -> None:
    """The answer names the key that switches them on."""
    blueprint = run_blueprint(None, lambda: NODES)
    async with _listening(place / "control.sock", [blueprint]) as control:
        for ask in (partial(_lines, control, all=True), partial(_count, control)):
            with pytest.raises(ControlError, match=r"remote_run\.enabled") as caught:
                await ask()
            assert caught.value.status == 409


async def _count(control: Control) -> Any:
    return await trio.to_thread.run_sync(control.get, "/run")


async def test_tasks_are_shown_as_a_tree_with_the_place_where_each_waits(place: Path) -> None:
    """A task is below the one that supervises it, and its place is in relayd's own code."""
    async with _listening(place / "control.sock", [tasks_blueprint()]) as control:
        found = await trio.to_thread.run_sync(control.get, "/tasks")
    tasks = found["tasks"]
    assert found["total"] == len(tasks)
    assert tasks[0]["depth"] == 0
    [control_task] = [task for task in tasks if task["name"] == "control"]
    above = [task for task in tasks[: tasks.index(control_task)] if task["depth"] == 0]
    assert control_task["depth"] > above[-1]["depth"]
    assert "relayd." in control_task["waits_in"]
