"""The path of a request as it was sent, which the framework does not show to handlers."""

from typing import Final

from quart import request
from werkzeug.exceptions import NotFound
from werkzeug.routing import BaseConverter

BASE: Final = "/rudder/relay-api/1"


class Rest(BaseConverter):
    """Rule `<rest:name>`: all that follows, whatever it is; the framework's `path` skips some."""

    regex = r"[\s\S]*"
    part_isolating = False


def rest_of_path(room: str) -> bytes:
    """Return what follows a room of the API in the path of the current request.

    Args:
        room: such as `/shared-folder/`.

    Returns:
        Percent-encoded, as it was sent.

    Raises:
        NotFound: base or room are written in another way, encoded for example.
    """
    raw = request.scope["raw_path"]
    prefix = f"{BASE}{room}".encode()
    if not raw.startswith(prefix):
        raise NotFound
    return raw.removeprefix(prefix)
