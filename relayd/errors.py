"""The tree of what can go wrong.

RelaydError
├── ConfigError          a configuration file is not valid: exit code 2
├── StartError           anything else that prevents the start: exit code 3
├── NodesError           nodes list or certificates file cannot be used as a whole
└── OutputError          the place where files go is not ready
    ├── DatabaseError    kind = transient | operator | permanent, with its SQLSTATE
    └── PeerError        another policy server: kind = transient | operator

A file is never an exception: what is wrong with it is a value, `Refused` (it will never pass:
moved to `failed` with its reason), `Retry` (the world is not ready: it stays where it is) or
`Gone`.
Anything else that is raised is a bug: it reaches the root nursery and ends the process.
"""

from enum import StrEnum
from typing import Literal

import msgspec


class RelaydError(Exception):
    """Base of all errors that relayd raises on purpose; its text is one line for an operator."""


class ConfigError(RelaydError):
    """A configuration file is not valid; the text names file, key, what was wrong and expected."""


class StartError(RelaydError):
    """relayd cannot start although its configuration is valid."""


class NodesError(RelaydError):
    """The nodes list or the certificates file cannot be used; the text names file and place."""


class OutputError(RelaydError):
    """The database or the upstream did not do what was asked."""


class DatabaseError(OutputError):
    """A failed database operation.

    Attributes:
        kind: `transient` (try again soon), `operator` (someone must act, try again slowly) or
            `permanent` (these data will never be accepted).
        sqlstate: the five characters of the PostgreSQL manual's appendix A, or "" when the
            server did not answer.
    """

    def __init__(
        self, detail: str, kind: Literal["transient", "operator", "permanent"], sqlstate: str = ""
    ) -> None:
        super().__init__(detail)
        self.kind = kind
        self.sqlstate = sqlstate


class PeerError(OutputError):
    """A request to another policy server that got no answer.

    Attributes:
        detail: one line for the operator; never a password.
        kind: `transient` (try again soon) or `operator` (someone must act, try again slowly).
        reached: False when no connection to that very peer came about.
    """

    def __init__(
        self, detail: str, kind: Literal["transient", "operator"], *, reached: bool = False
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.kind = kind
        self.reached = reached


class Reason(StrEnum):
    """Why a file is refused: a closed set, used as metric label and in `failed/*.reason`."""

    BAD_NAME = "bad_name"
    UNKNOWN_NODE = "unknown_node"
    NO_CERTIFICATE = "no_certificate"
    NOT_A_FILE = "not_a_file"
    EMPTY = "empty"
    TOO_LARGE = "too_large"
    ARCHIVE = "archive"
    MIME = "mime"
    SIGNATURE = "signature"
    UNKNOWN_SIGNER = "unknown_signer"
    NO_REPORT = "no_report"
    NODE_MISMATCH = "node_mismatch"
    DATABASE = "database"
    WORKER_CRASH = "worker_crash"
    EXPIRED = "expired"


class Refused(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """This file will never pass.

    Attributes:
        reason: the class of the fault.
        detail: one line for the operator: what was wrong and where. Holds no more than 200
            characters of the file, control characters escaped.
        maybe_unfinished: a file cut short looks exactly like this, so when it was written in
            place and is young, it is looked at once more before it is refused.
    """

    reason: Reason
    detail: str
    maybe_unfinished: bool = False


class Retry(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The world is not ready for this file; it stays in the spool and is tried again later.

    Attributes:
        detail: one line for the operator.
        attempted: False when it was not really tried: relayd stops, or is short of something.
    """

    detail: str
    attempted: bool = True


class Gone(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Someone else took the file: nothing to do."""
