"""The operations `pause` and `resume`."""

from collections.abc import Sequence
from math import inf
from typing import Any

import msgspec
from quart import Blueprint

from relayd.control.audit import audit, caller_name
from relayd.control.requests import BadRequestError, answering, read_body
from relayd.overview.documents import as_document
from relayd.overview.model import Kind, Pause
from relayd.pipelines.pausing import KINDS, Pausing, to_pause


class PauseOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"for_s": "for"}):
    """What to pause.

    Attributes:
        kinds: of files; all that are processed here if empty.
        for_s: seconds after which it ends by itself; None if it does not.
    """

    kinds: tuple[Kind, ...] = ()
    for_s: float | None = None


class ResumeOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to resume.

    Attributes:
        kinds: of files; all if empty.
    """

    kinds: tuple[Kind, ...] = ()


def pause_blueprint(pausing: Pausing, processed: Sequence[Kind]) -> Blueprint:
    """Return `/pause` and `/resume`.

    Args:
        pausing: the pauses.
        processed: the kinds of files that this server processes.
    """
    routes = Blueprint("pause", __name__)

    @routes.post("/pause", endpoint="pause")
    @answering("pause")
    async def pause() -> dict[str, Any] | None:
        order = await read_body(PauseOrder)
        kinds = to_pause(order.kinds, processed)
        if order.for_s is not None and not 0 < order.for_s < inf:
            raise BadRequestError("body: `for` must be more than 0 seconds")
        await pausing.begin(kinds, await caller_name(), order.for_s)
        await audit("pause", len(kinds), kinds=",".join(kinds), seconds=order.for_s or "no end")
        return _shown(pausing.pause)

    @routes.post("/resume", endpoint="resume")
    @answering("resume")
    async def resume() -> dict[str, object]:
        order = await read_body(ResumeOrder)
        ended = await pausing.end(order.kinds or KINDS)
        if ended:
            await audit("resume", len(ended), kinds=",".join(ended))
        return {"resumed": ended, "pause": _shown(pausing.pause)}

    return routes


def _shown(pause: Pause | None) -> dict[str, Any] | None:
    return None if pause is None else as_document(pause)
