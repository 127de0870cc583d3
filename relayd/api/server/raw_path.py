"""What handlers need of a request's target: its path as it was sent, and its parameters."""

from typing import Final

from quart import request
from werkzeug.exceptions import NotFound
from werkzeug.routing import BaseConverter

from relayd.fleet.peers.urls import API

BASE: Final = API


class Rest(BaseConverter):
    """The rule `<rest:name>`: any rest of a path; the framework's `path` does not match all."""

    regex = r"[\s\S]*"
    part_isolating = False


def rest_of_path(prefix: str, base: str = BASE) -> bytes:
    """Return what follows a prefix, relative to a base, in the path of the current request.

    Args:
        prefix: such as `/shared-folder/`.
        base: the base.

    Returns:
        Percent-encoded, as it was sent.

    Raises:
        NotFound: base or prefix are written differently, percent-encoded for example.
    """
    raw = request.scope["raw_path"]
    start = f"{base}{prefix}".encode()
    if not raw.startswith(start):
        raise NotFound
    return raw.removeprefix(start)


def last_value(name: str) -> str:
    """Return a parameter of the query; the last one if it is repeated, empty if it is missing."""
    return (request.args.getlist(name) or [""])[-1]
