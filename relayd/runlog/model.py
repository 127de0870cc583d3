"""The values that describe a run log at each stage; immutable and passed between processes."""

from typing import Final

import msgspec

#: Columns of `ruddersysevents` in the order of one COPY line and of `RunLog.first`.
COLUMNS: Final = (
    "executiondate",
    "nodeid",
    "directiveid",
    "ruleid",
    "reportid",
    "component",
    "keyvalue",
    "eventtype",
    "msg",
    "policy",
    "executiontimestamp",
)


class RunLogName(msgspec.Struct, frozen=True):
    """The parts of the name of a run-log file.

    Attributes:
        node_id: the node that uploaded it.
        timestamp: RFC 3339 date-time with offset, as `2018-08-24T15:55:01+00:00`.
        archive: "gz", "zip" or "" (not packed).
    """

    node_id: str
    timestamp: str
    archive: str


class NodeCertificate(msgspec.Struct, frozen=True, array_like=True):
    """The part of a node's X.509 certificate that verifies its signatures.

    Attributes:
        sid: DER of IssuerAndSerialNumber (RFC 5652, 10.2.4), as a SignerInfo carries it.
        spki: DER of SubjectPublicKeyInfo (RFC 5280, 4.1).
    """

    sid: bytes
    spki: bytes


class Verified(msgspec.Struct, frozen=True):
    """A message whose signature was verified.

    Attributes:
        content: the signed text without its MIME headers, each line ended by CRLF.
        signer: index of the certificate that matched, in the given list.
    """

    content: bytes
    signer: int


class Report(msgspec.Struct, frozen=True):
    """One report: one row of `ruddersysevents`. Dates are RFC 3339 text with offset."""

    start_datetime: str
    rule_id: str
    directive_id: str
    component: str
    key_value: str
    event_type: str
    msg: str
    policy: str
    node_id: str
    execution_datetime: str
    report_id: str


class RunLog(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """A parsed run log, ready for COPY.

    Attributes:
        node_id: the node that it describes, equal to the one in its file name.
        start: START of its first report, `YYYY-MM-DDTHH:MM:SS+ZZ:ZZ`.
        config_id: configuration id; None if no report contains it.
        complete: whether it has a `control`/`start` report.
        reports: number of reports before `skip_event_types` was applied.
        rows: number of lines in `copy`.
        copy: rows in PostgreSQL's COPY text format, columns as `COLUMNS`, UTF-8, each ended by
            a newline; without NUL characters and without rows that break a not-empty rule.
        first: the columns of the first report, before `skip_event_types`, unescaped.
        warnings: one line for each thing skipped or repaired, bounded in number.
        broken: number of reports that are malformed and therefore not in `copy`.
    """

    node_id: str
    start: str
    config_id: str | None
    complete: bool
    reports: int
    rows: int
    copy: bytes
    first: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    broken: int = 0
