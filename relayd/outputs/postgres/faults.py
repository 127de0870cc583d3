"""Errors of a connection and of asyncpg, translated into `DatabaseError`."""

import os
import re
import socket
import ssl
from enum import StrEnum
from typing import Final, Literal

import asyncpg

from relayd.errors import DatabaseError
from relayd.outputs.postgres.sqlstate import NO_PARTITION, kind_of
from relayd.system.shortage import words_of


class Step(StrEnum):
    """What a connection failed at."""

    OPTION = "option"  # an option or a variable has a value that cannot be used
    FILE = "file"  # a certificate, a key or a service file
    NAME = "name"  # resolve the host name
    REACH = "reach"  # connect to the address
    TIME = "time"  # no answer
    TLS = "tls"
    LOGIN = "login"  # authenticate, or the kind of server that it is


Kind = Literal["transient", "operator"]


class ConnectError(Exception):
    """No connection; the text names the host, the option or the file at fault.

    Attributes:
        detail: one line.
        reason: the same without the host.
        host: which host, "" if it is about none or several.
        step: what failed.
        kind: `transient` (it may end by itself) or `operator`.
        sqlstate: of the server's refusal, "" when it was not the server.
    """

    def __init__(
        self,
        detail: str,
        step: Step,
        kind: Kind = "operator",
        sqlstate: str = "",
        *,
        host: str = "",
    ) -> None:
        self.detail = f"{host}: {detail}" if host else detail
        super().__init__(self.detail)
        self.reason = detail
        self.host = host
        self.step = step
        self.kind = kind
        self.sqlstate = sqlstate


#: What is raised when the server, the network or the data are at fault.
FAULTS: Final = (
    OSError,
    TimeoutError,
    ConnectError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)

#: PgBouncer has one SQLSTATE, of a class that is transient, for all that it says itself. These are
#: the words of what does not end by itself.
_POOLER: Final = "08P01"
_POOLER_REFUSES: Final = (
    "unsupported startup parameter",
    "no such database",
    "no such user",
    "authentication failed",
    "auth failed",
    "login rejected",
    "not allowed",
    "required",
    "bouncer config error",
)

#: What PgBouncer says when it gives each statement another connection.
_NO_TRANSACTIONS: Final = "transaction blocks not allowed"

_MAX_TEXT: Final = 200

#: The key of a row without a partition, in whatever language the server speaks.
_PARTITION_KEY: Final = re.compile(r"\((\w+)\) = \(([^()]{1,40})\)")


def explain(error: BaseException) -> DatabaseError:
    """Translate an error. asyncpg hides the first cause in the context when a COPY breaks."""
    if isinstance(error, ConnectError):
        return DatabaseError(error.detail, error.kind, error.sqlstate)
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, asyncpg.PostgresError):
        cause = cause.__cause__ or cause.__context__
    if isinstance(cause, asyncpg.PostgresError):
        state = getattr(cause, "sqlstate", None) or ""
        # Only the primary message: the server's DETAIL shows the data.
        text = _message(cause)
        if _NO_TRANSACTIONS in text:
            detail = "PgBouncer pools statements; set its pool_mode to transaction or session"
            return DatabaseError(detail, "operator", state)
        if not state:
            return DatabaseError(text or type(cause).__name__, "transient")
        constraint = getattr(cause, "constraint_name", None)
        context = getattr(cause, "context", None) or ""
        kind = kind_of(state, constraint=constraint, context=context)
        if state == NO_PARTITION and constraint is None:
            text += _partition_of(cause)
        return DatabaseError(text, kind, state)
    if isinstance(error, TimeoutError):
        return DatabaseError("the database did not answer in time", "transient")
    return DatabaseError(_text(error), "transient")


def _partition_of(error: BaseException) -> str:
    """Return which partition is missing; unlike other DETAILs, this one shows dates only."""
    found = _PARTITION_KEY.search(getattr(error, "detail", None) or "")
    return f": {found[1]} = {found[2]}" if found else ""


def explain_connecting(error: BaseException, host: str) -> ConnectError:
    """Translate what prevented a connection to one host."""
    match error:
        case ConnectError():
            return error
        case asyncpg.PostgresError():
            return _of_server(error, host)
        case TimeoutError():
            return ConnectError("no answer in time", Step.TIME, "transient", host=host)
        case ssl.SSLError():
            return _of_tls(error, host)
        case OSError():
            return _of_system(error, host)
        case UnicodeError():
            return ConnectError("not a host name", Step.NAME, host=host)
        case asyncpg.ClientConfigurationError():
            return ConnectError(_text(error), Step.OPTION, host=host)
        case asyncpg.InterfaceError():
            return ConnectError(_text(error), Step.LOGIN, host=host)
    return ConnectError(_text(error), Step.REACH, "transient", host=host)


def _of_server(error: Exception, host: str) -> ConnectError:
    if getattr(error, "severity", None) is None:  # asyncpg raises some itself
        return ConnectError("closed during the login", Step.REACH, "transient", host=host)
    text, state = _message(error), getattr(error, "sqlstate", None) or ""
    kind: Kind = "transient" if _ends_by_itself(text, state) else "operator"
    return ConnectError(text, Step.LOGIN, kind, state, host=host)


def _of_tls(error: ssl.SSLError, host: str) -> ConnectError:
    match error:
        case ssl.SSLCertVerificationError():
            why = error.verify_message or _text(error)
            return ConnectError(f"the server's certificate: {why}", Step.TLS, host=host)
        case ssl.SSLEOFError() | ssl.SSLZeroReturnError():
            return ConnectError("closed during the TLS handshake", Step.TLS, "transient", host=host)
    return ConnectError(
        f"TLS: {getattr(error, 'reason', None) or _text(error)}", Step.TLS, host=host
    )


def _of_system(error: OSError, host: str) -> ConnectError:
    if isinstance(error, socket.gaierror):
        kind: Kind = "transient" if error.errno == socket.EAI_AGAIN else "operator"
        return ConnectError(error.strerror or _text(error), Step.NAME, kind, host=host)
    # asyncio has words of its own for an error of the system, with the address in them.
    why = words_of(OSError(error.errno, os.strerror(error.errno))) if error.errno else _text(error)
    denied = isinstance(error, PermissionError | IsADirectoryError | NotADirectoryError)
    return ConnectError(why, Step.REACH, "operator" if denied else "transient", host=host)


def _ends_by_itself(text: str, state: str) -> bool:
    if state == _POOLER:
        return not any(words in text.lower() for words in _POOLER_REFUSES)
    return not state or kind_of(state) == "transient"


def _message(error: BaseException) -> str:
    return " ".join(str(getattr(error, "message", None) or error).split())[:_MAX_TEXT]


def _text(error: BaseException) -> str:
    text = words_of(error) if isinstance(error, OSError) else str(error)
    return " ".join(text.split())[:_MAX_TEXT] or type(error).__name__
