"""The forms of an answer of the HTTP API, in one place."""

from typing import Any

import msgspec
from quart import Response

from relayd.errors import RelaydError


class BrokenOffError(RelaydError):
    """The body of an answer cannot be sent to its end, which the client sees by its length.

    Whoever raises it has logged why.
    """


class _Answer(msgspec.Struct, omit_defaults=True, rename={"error_details": "errorDetails"}):
    action: str
    result: str
    data: Any = msgspec.UNSET
    error_details: str | msgspec.UnsetType = msgspec.UNSET


def success(action: str, data: object = msgspec.UNSET) -> Response:
    """200 with `{"action", "result": "success", "data"}`; `data` is absent if there is none."""
    return _json(_Answer(action, "success", data=data), 200)


def failure(action: str, details: str, status: int = 500) -> Response:
    """`status` with `{"action", "result": "error", "errorDetails"}`."""
    return _json(_Answer(action, "error", error_details=details), status)


def not_found() -> Response:
    """404 with the text `NOT FOUND`: what is not there, and what may not be known to be there."""
    return Response("NOT FOUND", status=404, content_type="text/plain; charset=utf-8")


def empty(status: int) -> Response:
    """`status` and nothing else."""
    response = Response("", status=status)
    del response.headers["Content-Type"]
    return response


def _json(answer: _Answer, status: int) -> Response:
    return Response(msgspec.json.encode(answer), status=status, content_type="application/json")
