"""The content of a file, whatever its verdict: signer, reports, and further faults.

This is only for display. It uses the daemon's building blocks, but continues after a fault, and
never changes the verdict.
"""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from relayd.commands.inspect.verdict import SIGNED, Criteria, Verdict, explain, spool_name
from relayd.errors import Gone, Reason, Refused, Retry
from relayd.fleet.admission import trusted_certificates
from relayd.pipelines.workers.job import read_content
from relayd.runlog.copytext import read_copy
from relayd.runlog.filename import parse_name, queue_id
from relayd.runlog.model import NodeCertificate, Report, RunLog, RunLogName
from relayd.runlog.parser import parse
from relayd.runlog.signature.mime import MimeError, split, text_of
from relayd.runlog.signature.smime import verify
from relayd.spool.opening import open_file, try_later
from relayd.system.printable import printable

_NODE: Final = re.compile(rb"##([^@\r\n]+)@#")
_MAGIC: Final = {b"\x1f\x8b": "gz", b"PK": "zip"}


class Inspection(msgspec.Struct):
    """Everything that is shown of a file. Text is as in the file, not made printable.

    Attributes:
        file: path as given.
        queue_id: id of the file on its way between servers, from its base name.
        node_id: from the file name; without a usable one, from the first report.
        timestamp: of the run, from the file name, RFC 3339.
        verified: whether it is signed with one of the node's certificates.
        signer: hash of the key that signed, `sha256:<hex>` as in the nodes list.
        error: the reason for which it would be refused, followed by further faults; None if it
            would be accepted.
        type: "complete" or "partial", None without any report.
        config_id: configuration id that the agent ran.
        reports: its rows, in order.
        skipped: one line for each thing that is not inserted or was repaired.
    """

    file: str
    queue_id: str
    node_id: str | None = None
    timestamp: str | None = None
    verified: bool = False
    signer: str | None = None
    error: str | None = None
    type: str | None = None
    config_id: str | None = None
    reports: list[Report] = msgspec.field(default_factory=list)
    skipped: list[str] = msgspec.field(default_factory=list)


def describe(path: Path, verdict: Verdict, criteria: Criteria) -> Inspection:
    """Return everything that is shown of a file.

    Args:
        path: the file.
        verdict: the verdict on it.
        criteria: the criteria of this verdict.
    """
    inspection = Inspection(str(path), queue_id(path.name))
    if isinstance(verdict, Retry | Gone):
        inspection.error = explain(verdict)
        return inspection
    content = _Content(inspection, criteria)
    content.show(path)
    if isinstance(verdict, Refused):
        # Mostly the same fault again: shown once, and the daemon's reason first.
        inspection.error = "; ".join(dict.fromkeys([explain(verdict), *content.faults]))
    return inspection


class _Content:
    """Fills in an inspection, step by step, and collects faults."""

    def __init__(self, inspection: Inspection, criteria: Criteria) -> None:
        self._shown = inspection
        self._criteria = criteria
        self.faults: list[str] = []

    def show(self, path: Path) -> None:
        """Show a file; stop only where nothing more can be read."""
        archive = self._show_name(path.name)
        content = self._read(os.path.realpath(path), archive)
        if not isinstance(content, bytes):
            self.faults.append(explain(content))
            return
        text = _text(content)
        found = _NODE.search(text)
        reported = found[1].decode("utf-8", "replace") if found else ""
        self._shown.node_id = self._shown.node_id or reported or None
        self._show_signer(content)
        self._show_reports(text, reported)

    def _show_name(self, name: str) -> str | None:
        """Show node and run from the name.

        Returns:
            The archive form, None if the name does not give it.
        """
        judged = spool_name(name)
        if judged != name:
            self._shown.skipped.append(f"extension {SIGNED} is judged as .log")
        usable = parsed = parse_name(judged)
        if isinstance(parsed, Refused):
            self.faults.append(explain(parsed))
            # A copy with another extension still has node and date in its name.
            usable = parse_name(f"{os.path.splitext(name)[0]}.log")  # noqa: PTH122 - a name, no path
        if isinstance(usable, RunLogName):
            self._shown.node_id, self._shown.timestamp = usable.node_id, usable.timestamp
        return parsed.archive if isinstance(parsed, RunLogName) else None

    def _read(self, path: str, archive: str | None) -> bytes | Refused | Retry | Gone:
        descriptor = open_file(path)
        if not isinstance(descriptor, int):
            return descriptor
        try:
            status = os.fstat(descriptor)
            if archive is None:
                archive = _archive(descriptor)
            return read_content(descriptor, status, archive, self._criteria.max_size)
        except OSError as error:
            return try_later("cannot be read", error)
        finally:
            os.close(descriptor)

    def _show_signer(self, content: bytes) -> None:
        certificates: tuple[NodeCertificate, ...] = ()
        if self._shown.node_id is not None:
            trusted = trusted_certificates(self._shown.node_id, self._criteria.nodes)
            if isinstance(trusted, Refused):
                self.faults += filter(None, [explain(trusted), self._criteria.advice])
            else:
                certificates = trusted
        verified = verify(content, certificates)
        if not isinstance(verified, Refused):
            self._shown.verified = True
            spki = certificates[verified.signer].spki
            self._shown.signer = f"sha256:{hashlib.sha256(spki).hexdigest()}"
        elif certificates or verified.reason is not Reason.UNKNOWN_SIGNER:
            # Without certificates every signer is unknown: that is not a further fault.
            self.faults.append(explain(verified))

    def _show_reports(self, text: bytes, reported: str) -> None:
        shown = self._shown
        run_log = parse(text, shown.node_id or "")
        if isinstance(run_log, Refused):
            self.faults.append(explain(run_log))
            run_log = parse(text, reported)
        if isinstance(run_log, RunLog):
            shown.type = "complete" if run_log.complete else "partial"
            shown.config_id = run_log.config_id
            shown.reports = list(read_copy(run_log.copy))
            skipped = _skipped(shown.reports, self._criteria.skip_event_types)
            shown.skipped += [*run_log.warnings, *skipped]


def _archive(descriptor: int) -> str:
    """Return the archive form of an opened file by its first two bytes."""
    try:
        return _MAGIC.get(os.pread(descriptor, 2, 0), "")
    except OSError:  # not a regular file
        return ""


def _text(content: bytes) -> bytes:
    """Return the signed text of a message, all of it if it is not one; no signature is verified."""
    try:
        return text_of(split(content).signed)
    except MimeError:
        return content


def _skipped(reports: Sequence[Report], skip: frozenset[str]) -> list[str]:
    counts = Counter(report.event_type for report in reports if report.event_type in skip)
    return [
        f"not inserted: {printable(event_type, 80)}, {count} times (skip_event_types)"
        for event_type, count in sorted(counts.items())
    ]
