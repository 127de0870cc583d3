"""What the control socket offers, from the parts of a running service."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import trio
from quart import Blueprint

from relayd.api.app import App
from relayd.api.coalesce import Coalesced
from relayd.api.status import StatusReport
from relayd.api.system import RELOAD_TIMEOUT_S
from relayd.control.app import make_control_app
from relayd.control.audit import audit
from relayd.control.failed import failed_blueprint
from relayd.control.nodes import Fleet, nodes_blueprint
from relayd.control.pause import pause_blueprint
from relayd.control.queue import queue_blueprint
from relayd.control.requests import answering
from relayd.control.run import run_blueprint
from relayd.control.tasks import tasks_blueprint
from relayd.errors import RelaydError
from relayd.overview.documents import as_document
from relayd.overview.model import Kind, Overview
from relayd.pipelines.pausing import Pausing
from relayd.pipelines.steering import Steering
from relayd.remote_run.runs import RemoteRuns


@dataclass(frozen=True, slots=True)
class Controls:
    """The parts of the service that operators ask and change.

    Attributes:
        checks: checks the current state, as the API does.
        reload: reads logging, nodes and certificates again.
        pausing: stops the taking of files.
        processed: the kinds of files that this server processes.
        overview: says whether all is well.
        steering: changes the queue.
        fleet: answers what is asked about nodes.
        remote_runs: starts agents; None if that is switched off.
    """

    checks: Callable[[], Awaitable[StatusReport]]
    reload: Callable[[], Awaitable[None]]
    pausing: Pausing
    processed: Sequence[Kind]
    overview: Callable[[], Awaitable[Overview]]
    steering: Steering
    fleet: Fleet
    remote_runs: RemoteRuns | None


def control_app(controls: Controls) -> App:
    """Return the application of the control socket."""
    return make_control_app(
        [
            _service_blueprint(controls),
            pause_blueprint(controls.pausing, controls.processed),
            queue_blueprint(controls.steering),
            nodes_blueprint(controls.fleet),
            failed_blueprint(controls.steering.spools, controls.fleet.nodes),
            run_blueprint(controls.remote_runs, controls.fleet.nodes),
            tasks_blueprint(),
        ]
    )


def _service_blueprint(controls: Controls) -> Blueprint:
    routes = Blueprint("service", __name__)
    reload = Coalesced(controls.reload)

    @routes.get("/status", endpoint="getStatus")
    @answering("getStatus")
    async def status() -> dict[str, Any]:
        return as_document(await controls.overview())

    @routes.get("/checks", endpoint="getChecks")
    @answering("getChecks")
    async def check() -> StatusReport:
        return await controls.checks()

    @routes.post("/reload", endpoint="reload")
    @answering("reload")
    async def reload_now() -> None:
        try:
            with trio.fail_after(RELOAD_TIMEOUT_S):
                await reload()
        except trio.TooSlowError:
            raise RelaydError(f"timeout: not done within {RELOAD_TIMEOUT_S:g} s") from None
        await audit("reload", 1)

    return routes
