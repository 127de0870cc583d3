"""The routes about relayd itself: version, status, reload, metrics."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import trio
from quart import Blueprint, Response

from relayd.api import answers
from relayd.api.coalesce import Coalesced
from relayd.api.remote_run import AskWay
from relayd.api.shared_files import SharedFiles
from relayd.api.shared_folder import SharedFolder
from relayd.api.status import StatusReport
from relayd.errors import RelaydError
from relayd.remote_run.runs import RemoteRuns
from relayd.telemetry.metrics import CONTENT_TYPE, Metrics

if TYPE_CHECKING:
    from relayd.api.page.pages import Pages

#: A reload takes seconds with the largest fleet; a hanging one must not block its caller.
RELOAD_TIMEOUT_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Services:
    """The parts of the service that request handlers use.

    Attributes:
        status: checks the current state (a `relayd.api.status.StatusReader`).
        reload: reads logging, nodes and certificates again; raises `RelaydError` if it changed
            nothing. Never called concurrently.
        metrics: of this service.
        version: of relayd, as `1.2.3`.
        remote_runs: starts agents; None if it is switched off.
        shared_folder: what `/shared-folder` needs; None leaves it out.
        shared_files: what `/shared-files` needs; None leaves it out.
        pages: makes the page for administrators, at its first request; None leaves it out.
        ask_way: answers `/remote-run/status`; None leaves it out.
    """

    status: Callable[[], Awaitable[StatusReport]]
    reload: Callable[[], Awaitable[None]]
    metrics: Metrics
    version: str
    remote_runs: RemoteRuns | None = None
    shared_folder: SharedFolder | None = None
    shared_files: SharedFiles | None = None
    pages: "Callable[[], Pages] | None" = None
    ask_way: AskWay | None = None


def system_blueprint(services: Services) -> Blueprint:
    """Return `/system/…`, relative to the base of the API. Endpoints are named by action."""
    routes = Blueprint("system", __name__, url_prefix="/system")
    reload = Coalesced(services.reload)

    @routes.get("/info", endpoint="getSystemInfo")
    async def info() -> Response:
        major = ".".join(services.version.split(".")[:2])
        data = {"major-version": major, "full-version": services.version}
        return answers.success("getSystemInfo", data)

    @routes.get("/status", endpoint="getStatus")
    async def status() -> Response:
        return answers.success("getStatus", await services.status())

    @routes.post("/reload", endpoint="reloadConfiguration")
    async def reload_configuration() -> Response:
        try:
            with trio.fail_after(RELOAD_TIMEOUT_S):
                await reload()
        except RelaydError as error:
            return answers.failure("reloadConfiguration", str(error))
        except trio.TooSlowError:
            details = f"timeout: not done within {RELOAD_TIMEOUT_S:g} s"
            return answers.failure("reloadConfiguration", details)
        return answers.success("reloadConfiguration")

    return routes


def metrics_blueprint(metrics: Metrics) -> Blueprint:
    """Return the route `/metrics`, for Prometheus."""
    routes = Blueprint("metrics", __name__)

    @routes.get("/metrics", endpoint="getMetrics")
    async def render() -> Response:
        return Response(metrics.render(), content_type=CONTENT_TYPE)

    return routes
