"""The errors that relayd raises on purpose, and the faults of a file as values.

RelaydError
├── ConfigError          a configuration file is not valid: exit code 2
│   └── SettingError     the value of one key is not valid
├── StartError           anything else that prevents the start: exit code 3
│   └── TransientStartError  it may go away by itself: exit code 75
├── NodesError           the nodes list or the certificates file cannot be used as a whole
└── OutputError          the database or another policy server is not ready
    ├── DatabaseError    kind = transient | operator | permanent | table, with its SQLSTATE
    └── PeerError        another policy server: kind = transient | operator, with the failed step

The text of an error is for people. Code decides by its type and attributes, and never reads the
text.

A file is never an exception. Its faults are values: `Refused` (it will never pass and moves to
`failed` with its reason), `Retry` (relayd cannot process it now; it stays where it is) or `Gone`.
Any other exception is a bug: it reaches the root nursery and ends the process.
"""

import errno
from enum import StrEnum
from pathlib import Path
from typing import Final, Literal

import msgspec

#: What msgspec raises for data that it cannot decode: wrong as JSON or as a value of the type, text
#: that is not UTF-8, and more levels than the interpreter allows.
UNDECODABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class RelaydError(Exception):
    """Base of all errors that relayd raises on purpose; its text is one line for an operator.

    Attributes:
        detail: the fault, without the name of the file.
        file: the file at fault, None when the fault is not in a file.
        others: further errors of the same configuration, in their order.
        warnings: what else is wrong with that configuration, perhaps the cause.
    """

    def __init__(self, detail: str, *, file: Path | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.file = file
        self.others: tuple[RelaydError, ...] = ()
        self.warnings: tuple[ConfigWarning, ...] = ()

    def each(self) -> "tuple[RelaydError, ...]":
        """Return this error and the others; each is one line for an operator."""
        return (self, *self.others)

    def __str__(self) -> str:
        return self.detail if self.file is None else f"{self.file}: {self.detail}"


class ConfigError(RelaydError):
    """A configuration file is not valid.

    Attributes:
        line: line of a syntax error, None when the fault has no line.
        advice: what to write in that line instead, None if it is not known; the text ends with it.
    """

    def __init__(
        self,
        detail: str,
        *,
        file: Path | None = None,
        line: int | None = None,
        advice: str | None = None,
    ) -> None:
        super().__init__(detail, file=file)
        self.line = line
        self.advice = advice

    def __str__(self) -> str:
        text = super().__str__()
        return text if self.advice is None else f"{text}; {self.advice}"


class SettingError(ConfigError):
    """The value of a configuration key or of an environment variable is not valid, or is missing.

    Attributes:
        key: dotted name of the key, or name of the variable.
        expected: completes "expected …".
        got: the value as messages show it, None when it is missing.
        suggestion: the value that was probably meant, None without one.
        instead: an unknown key that was probably meant as this one, None without one.
    """

    def __init__(
        self,
        key: str,
        expected: str,
        got: str | None,
        *,
        file: Path | None = None,
        suggestion: str | None = None,
        instead: str | None = None,
    ) -> None:
        shown = "nothing" if got is None else got
        if instead is not None:
            shown += f" but the unknown key {instead}"
        if suggestion is not None:
            shown += f", did you mean {suggestion}?"
        super().__init__(f"{key}: expected {expected}, got {shown}", file=file)
        self.key = key
        self.expected = expected
        self.got = got
        self.suggestion = suggestion
        self.instead = instead


class ConfigWarning(msgspec.Struct, frozen=True, kw_only=True):
    """A fault in the configuration with which relayd starts anyway; its text is one line.

    Attributes:
        kind: the fault.
        detail: the fault in words, without the name of the file.
        key: dotted name of the key, None when the fault is not about one.
        suggestion: the key that was probably meant, None without one.
        file: the configuration file, None when the text does not name it.
    """

    kind: Literal[
        "unknown_key",
        "more_unknown_keys",
        "unreadable",
        "mode",
        "unverified",
        "database_url",
        "no_effect",
        "doubtful",
        "log_filter",
        "proxy",
    ]
    detail: str
    key: str | None = None
    suggestion: str | None = None
    file: Path | None = None

    def __str__(self) -> str:
        text = self.detail if self.file is None else f"{self.file}: {self.detail}"
        return text if self.suggestion is None else f"{text}, did you mean {self.suggestion}?"


class StartError(RelaydError):
    """relayd cannot start although its configuration is valid.

    Attributes:
        reason: the system's words for the cause, None without one; the text ends with them.
    """

    def __init__(
        self, problem: str, *, file: Path | None = None, reason: str | None = None
    ) -> None:
        super().__init__(problem if reason is None else f"{problem}: {reason}", file=file)
        self.reason = reason

    def __str__(self) -> str:
        return self.detail  # names the file itself


class TransientStartError(StartError):
    """relayd cannot start now, but another attempt may succeed without anyone's help."""


#: Errors of the system that last until someone changes the machine on purpose.
_LASTING: Final = frozenset(
    {
        errno.EACCES,
        errno.EEXIST,
        errno.EINVAL,
        errno.EISDIR,
        errno.ELOOP,
        errno.ENAMETOOLONG,
        errno.ENOTDIR,
        errno.EPERM,
        errno.EROFS,
    }
)


def start_error(
    problem: str, cause: OSError, *, file: Path | None = None, words: str | None = None
) -> StartError:
    """Return the error for what the system refused: transient unless someone has to act.

    Args:
        problem: what could not be done.
        cause: the error of the system.
        file: the file at fault, None when the fault is not in a file.
        words: better words for the cause than the system's own.
    """
    kind = StartError if cause.errno in _LASTING else TransientStartError
    return kind(problem, file=file, reason=words or cause.strerror or str(cause))


class NodesError(RelaydError):
    """The nodes list or the certificates file cannot be used, or no route leads to a node."""


class OutputError(RelaydError):
    """The database or another policy server did not do what was asked."""


class DatabaseError(OutputError):
    """A failed database operation.

    Attributes:
        kind: `transient` (retry soon), `operator` (an operator must act; retry slowly),
            `permanent` (the database will never accept these data) or `table` (the tables refuse
            what Rudder's own would accept; an operator must change them).
        sqlstate: the five characters of the PostgreSQL manual's appendix A, or "" when the
            server did not answer.
        all_alike: the tables refuse every run log, one that is known to be good too.
    """

    def __init__(
        self,
        detail: str,
        kind: Literal["transient", "operator", "permanent", "table"],
        sqlstate: str = "",
        *,
        all_alike: bool = False,
    ) -> None:
        super().__init__(detail)
        self.kind = kind
        self.sqlstate = sqlstate
        self.all_alike = all_alike


class PeerStep(StrEnum):
    """Steps of a request to another policy server, in their order."""

    TRUST = "trust"  # read the certificates to know the peer by
    CONNECT = "connect"
    TLS = "tls"
    IDENTITY = "identity"  # compare its certificate with the expected one
    ANSWER = "answer"


class PeerError(OutputError):
    """A request to another policy server failed.

    Attributes:
        kind: `transient` (retry soon) or `operator` (an operator must act; retry slowly).
        step: the step that failed.
    """

    def __init__(
        self,
        detail: str,
        kind: Literal["transient", "operator"],
        step: PeerStep,
        *,
        file: Path | None = None,
    ) -> None:
        super().__init__(detail, file=file)
        self.kind = kind
        self.step = step

    @property
    def reached(self) -> bool:
        """Whether there was a connection to that very peer."""
        return self.step is PeerStep.ANSWER


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
        detail: one line for the operator: the fault and its place. Holds at most 200 characters
            of the file, control characters escaped.
        maybe_unfinished: a truncated file has the same fault, so a young file that was written
            in place is examined once more before it is refused.
        judged_by: token of what it was judged by, if that was not the trust in its node: once it
            differs, the file may pass.
    """

    reason: Reason
    detail: str
    maybe_unfinished: bool = False
    judged_by: str = ""


class Retry(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The file cannot be processed now; it stays in the spool and is retried later.

    Attributes:
        detail: one line for the operator.
        attempted: False when it was not really tried: relayd is stopping, or short of a resource.
    """

    detail: str
    attempted: bool = True


class Gone(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Someone else took the file; nothing to do."""
