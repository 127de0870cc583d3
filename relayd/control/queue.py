"""Waiting files at the control socket: list, count, set aside, bring back, drop, retry."""

from collections.abc import Awaitable, Callable
from typing import Final

import msgspec
from quart import Blueprint

from relayd.control.audit import audit, caller_name
from relayd.control.requests import BadRequestError, answering, read_body
from relayd.pipelines.steering import Steering
from relayd.spool.operations.choose import Choice
from relayd.spool.operations.queue import Queue
from relayd.spool.operations.shape import ROWS, Shape
from relayd.spool.operations.views import Report, Waiting

#: Files of a list, if the request does not say how many.
LISTED: Final = 100


class ListRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A request for waiting files.

    Attributes:
        choice: which.
        limit: files that are returned at most; 0: all.
        details: whether with size and time of arrival.
    """

    choice: Choice = Choice()
    limit: int = LISTED
    details: bool = False


class ShapeRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A request for the table of waiting files by node and age.

    Attributes:
        choice: which files.
        rows: nodes, and relays, that have a row of their own.
    """

    choice: Choice = Choice()
    rows: int = ROWS


class ActRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A request that changes something.

    Attributes:
        choice: which files.
        everything: must be true if nothing is chosen.
        trial: whether only to count.
    """

    choice: Choice = Choice()
    everything: bool = False
    trial: bool = False


def queue_blueprint(steering: Steering) -> Blueprint:
    """Return the routes below `/queue`."""
    routes = Blueprint("queue", __name__)

    @routes.post("/queue/list", endpoint="listQueue")
    @answering("listQueue")
    async def files() -> Waiting:
        asked = await read_body(ListRequest)
        return await steering.run(
            lambda queue: queue.files(asked.choice, asked.limit, details=asked.details)
        )

    @routes.post("/queue/shape", endpoint="shapeQueue")
    @answering("shapeQueue")
    async def shape() -> Shape:
        asked = await read_body(ShapeRequest)
        return await steering.run(lambda queue: queue.shape(asked.choice, asked.rows))

    _add(
        routes,
        "hold",
        _acting(
            steering,
            "hold",
            lambda queue, asked, by: queue.hold(asked.choice, by, trial=asked.trial),
        ),
    )
    _add(
        routes,
        "release",
        _acting(
            steering,
            "release",
            lambda queue, asked, _by: queue.release(asked.choice, trial=asked.trial),
        ),
    )
    _add(
        routes,
        "drop",
        _acting(
            steering, "drop", lambda queue, asked, _by: queue.drop(asked.choice, trial=asked.trial)
        ),
    )
    _add(routes, "retry", _retrying(steering))
    return routes


def _add(routes: Blueprint, action: str, handler: Callable[[], Awaitable[Report]]) -> None:
    name = f"{action}Queue"
    routes.post(f"/queue/{action}", endpoint=name)(answering(name)(handler))


Act = Callable[[Queue, ActRequest, str], Report]


def _acting(steering: Steering, action: str, act: Act) -> Callable[[], Awaitable[Report]]:
    async def handle() -> Report:
        asked = await _read(action)
        by = await caller_name()
        report = await steering.run(lambda queue: act(queue, asked, by))
        await _audit(report, asked)
        return report

    return handle


def _retrying(steering: Steering) -> Callable[[], Awaitable[Report]]:
    async def handle() -> Report:
        asked = await _read("retry")
        report = await steering.run(lambda queue: queue.retry(asked.choice))
        if asked.everything:
            steering.retry_all()
        await _audit(report, asked)
        return report

    return handle


async def _read(action: str) -> ActRequest:
    asked = await read_body(ActRequest)
    if asked.choice.is_all != asked.everything:
        raise BadRequestError(f"{action}: choose files, or set `everything`, but not both")
    return asked


async def _audit(report: Report, asked: ActRequest) -> None:
    if not asked.trial:
        given = {name: one for name, one in msgspec.structs.asdict(asked.choice).items() if one}
        choice = msgspec.json.encode(given).decode()
        await audit(f"queue {report.action}", report.files, choice=choice, outcomes=report.counts)
