"""The state of relayd, checked at each request and in bounded time."""

import re
from collections.abc import Awaitable, Callable
from typing import Final, Literal

import msgspec
import trio

from relayd.errors import RelaydError
from relayd.outputs.results import HeldFiles, ServerFacts, StoreFacts
from relayd.system.threads import in_thread

#: Seconds for each check: a status request must report a hanging database, not hang itself.
CHECK_TIMEOUT_S: Final = 2.0

_URL_CREDENTIALS: Final = re.compile(r"://\S*@")
_PASSWORD: Final = re.compile(r"(?i)(password\s*[=:]\s*)('[^']*'|\"[^\"]*\"|\S+)")


class StatusCheck(msgspec.Struct, frozen=True, omit_defaults=True):
    """The outcome of one check, as the API shows it.

    Attributes:
        status: whether it succeeded.
        details: one line on the fault, without credentials; only on error.
    """

    status: Literal["success", "error"]
    details: str | msgspec.UnsetType = msgspec.UNSET


class DatabaseCheck(StatusCheck, frozen=True, omit_defaults=True):
    """The outcome of the check of the database.

    Attributes:
        server: the server that was reached last; absent before the first.
        held: numbers of the committed files that are kept for a while; absent if none are.
    """

    server: ServerFacts | msgspec.UnsetType = msgspec.UNSET
    held: HeldFiles | msgspec.UnsetType = msgspec.UNSET


class StatusReport(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """The outcome of all checks, as the API shows it.

    Attributes:
        database: whether run logs are written, or could be now; absent if that output is off.
        configuration: whether the configuration on disk is valid.
    """

    database: DatabaseCheck | msgspec.UnsetType = msgspec.UNSET
    configuration: StatusCheck


OK: Final = StatusCheck("success")


class StatusReader:
    """Checks the configuration on disk and the database, each within two seconds.

    Args:
        configuration: reads and validates the configuration, in a thread; raises `RelaydError`.
        database: whether run logs are written, or could be now; raises `RelaydError`. None if that
            output is off.
        facts: returns what else there is to show of the database.
    """

    def __init__(
        self,
        configuration: Callable[[], object],
        database: Callable[[], Awaitable[object]] | None = None,
        facts: Callable[[], StoreFacts] = StoreFacts,
    ) -> None:
        self._configuration = configuration
        self._database = database
        self._facts = facts
        # A hanging file system blocks these threads, and must not block more.
        self._threads = trio.CapacityLimiter(2)

    async def __call__(self) -> StatusReport:
        """Run the checks concurrently."""
        checks: dict[str, StatusCheck] = {}
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_check, checks, "configuration", self._read_configuration)
            if self._database is not None:
                nursery.start_soon(_check, checks, "database", self._database)
        database = checks.get("database")
        if database is None:
            return StatusReport(configuration=checks["configuration"])
        facts = self._facts()
        shown = DatabaseCheck(database.status, database.details, facts.server, facts.held)
        return StatusReport(database=shown, configuration=checks["configuration"])

    async def _read_configuration(self) -> None:
        await in_thread(self._configuration, abandon_on_cancel=True, limiter=self._threads)


async def _check(
    checks: dict[str, StatusCheck], name: str, action: Callable[[], Awaitable[object]]
) -> None:
    with trio.move_on_after(CHECK_TIMEOUT_S) as scope:
        try:
            await action()
        except RelaydError as error:
            checks[name] = StatusCheck("error", without_credentials(str(error)))
        else:
            checks[name] = OK
    if scope.cancelled_caught:
        checks[name] = StatusCheck("error", f"timeout: no answer within {CHECK_TIMEOUT_S:g} s")


def without_credentials(text: str) -> str:
    """Return `text` without user and password in URLs and without `password=…` values.

    A second line of defence: errors should not contain any.
    """
    return _PASSWORD.sub(r"\1***", _URL_CREDENTIALS.sub("://***@", text))
