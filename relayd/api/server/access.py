"""The access log: one line for each request, at level debug of the component `access`.

It is off by default: the web server in front logs requests too, and knows the clients.
"""

import time
from collections.abc import Awaitable, Callable
from typing import Final

from hypercorn.typing import ASGISendEvent, Scope

from relayd.config.log_filter import DEBUG
from relayd.system.printable import printable
from relayd.telemetry.logs import Limit, get_logger

log = get_logger("access", Limit.NONE)

Send = Callable[[ASGISendEvent | None], Awaitable[None]]

#: Characters of a path in a log line.
_SHOWN: Final = 500


class Access:
    """What the access log says about one request."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self._headers_only = scope["type"] == "http" and scope["method"] == "HEAD"
        self._begun = time.monotonic()
        self._status = 0
        self._sent = 0

    def noting(self, send: Send) -> Send:
        """Return a `send` that takes note of what goes to the client."""

        async def send_noted(message: ASGISendEvent | None) -> None:
            self._note(message)
            await send(message)

        return send_noted

    def _note(self, message: ASGISendEvent | None) -> None:
        if message is None:
            return
        if message["type"] == "http.response.start":
            self._status = message["status"]
        elif message["type"] == "http.response.body" and not self._headers_only:
            self._sent += len(message.get("body", b""))

    def log(self) -> None:
        """Log the request, once its answer was sent or broken off."""
        scope = self._scope
        if scope["type"] != "http":
            return
        target = scope["raw_path"].decode("latin-1")
        if query := scope["query_string"].decode("latin-1"):
            target += f"?{query}"
        client = scope["client"]
        log.debug(
            "request",
            method=printable(scope["method"]),
            path=printable(target, _SHOWN),
            status=self._status or "none",
            bytes=self._sent,
            ms=round(1000 * (time.monotonic() - self._begun), 1),
            client=client[0] if client else "",
        )


def begin_access(scope: Scope) -> Access | None:
    """Return the entry of a request that begins; None while the access log is off."""
    return Access(scope) if log.enabled(DEBUG) else None


def log_refused(status: int, client: tuple[str, int] | None) -> None:
    """Log a request that was refused before it was understood."""
    log.debug("malformed request", status=status, client=client[0] if client else "")
