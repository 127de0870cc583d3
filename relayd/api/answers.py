"""The forms of the HTTP API's answers."""

from typing import Any

import msgspec
from quart import Response

from relayd.errors import RelaydError


class BrokenOffError(RelaydError):
    """The body of an answer cannot be sent completely; its length shows this to the client.

    The cause has been logged before this is raised.
    """


class _Answer(
    msgspec.Struct, omit_defaults=True, kw_only=True, rename={"error_details": "errorDetails"}
):
    """Callers compare whole answers, so the order of the keys is part of the interface."""

    data: Any = msgspec.UNSET
    result: str
    action: str
    error_details: str | msgspec.UnsetType = msgspec.UNSET


def success(action: str, data: object = msgspec.UNSET) -> Response:
    """Return 200 with `{"data", "result": "success", "action"}`; `data` may be absent."""
    return _json(_Answer(data=data, result="success", action=action), 200)


def failure(action: str, details: str, status: int = 500) -> Response:
    """Return `status` with `{"result": "error", "action", "errorDetails"}`."""
    return _json(_Answer(result="error", action=action, error_details=details), status)


def not_found() -> Response:
    """Return 404 with the text `NOT FOUND`, also to hide that something exists."""
    return Response("NOT FOUND", status=404, content_type="text/plain; charset=utf-8")


def empty(status: int) -> Response:
    """Return `status` without a body."""
    response = Response("", status=status)
    del response.headers["Content-Type"]
    return response


def _json(answer: _Answer, status: int) -> Response:
    return Response(msgspec.json.encode(answer), status=status, content_type="application/json")
