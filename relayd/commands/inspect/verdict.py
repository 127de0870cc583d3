"""The verdict on one file: the daemon's own steps, but going on after a fault to show the rest."""

import hashlib
import os
import re
import stat
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from relayd.commands.inspect.trust import Trust
from relayd.errors import Reason, Refused
from relayd.runlog.archive import unpack
from relayd.runlog.copytext import read_copy
from relayd.runlog.filename import parse_name, queue_id
from relayd.runlog.model import NodeCertificate, Report, RunLog, RunLogName
from relayd.runlog.parser import parse
from relayd.runlog.signature.mime import MimeError, split, text_of
from relayd.runlog.signature.smime import verify
from relayd.system.printable import printable

_NODE: Final = re.compile(rb"##([^@\r\n]+)@#")
#: What people call the output of `openssl smime -sign`. No spool takes it under this extension.
_KEPT_ASIDE: Final = ".signed"
_MAGIC: Final = {b"\x1f\x8b": "gz", b"PK": "zip"}


class Rules(msgspec.Struct, frozen=True):
    """What an inspection goes by.

    Attributes:
        trust: who may sign.
        max_size: cap on the size of a run log, packed or not, in bytes.
        skip_event_types: event types that are not inserted.
    """

    trust: Trust
    max_size: int
    skip_event_types: frozenset[str]


class Verdict(msgspec.Struct):
    """What relayd would do with a file and why. Text is as the file has it, not made printable.

    Attributes:
        file: path as it was given.
        queue_id: id of the file on its way, from its base name.
        node_id: from the file name; without a usable one, from the first report.
        timestamp: of the run, from the file name, RFC 3339.
        verified: it is signed by one of the node's certificates.
        signer: hash of the key that signed, `sha256:<hex>` as in the nodes list.
        error: why it would be refused, None when it would be accepted.
        type: "complete" or "partial", None when there is no report.
        config_id: configuration id that the agent ran.
        reports: its rows, in order.
        skipped: what gets no row or was repaired, and why, one line each.
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

    def refuse(self, refused: Refused) -> None:
        """Add a reason to refuse the file."""
        told = f"{refused.reason}: {refused.detail}"
        self.error = f"{self.error}; {told}" if self.error else told


def judge(path: Path, rules: Rules) -> Verdict:
    """Judge one file.

    Args:
        path: the file; symbolic links are followed.
        rules: what it is judged by.

    Raises:
        OSError: it cannot be read.
    """
    verdict = Verdict(str(path), queue_id(path.name))
    data = _read(path, rules.max_size)
    if isinstance(data, Refused):
        verdict.refuse(data)
        return verdict
    archive = _judge_name(verdict, path.name, data)
    message = unpack(data, archive, rules.max_size)
    if isinstance(message, Refused):
        verdict.refuse(message)
        return verdict
    text = _judge_signature(verdict, message, rules.trust)
    _judge_text(verdict, text, rules.skip_event_types)
    return verdict


def _read(path: Path, max_size: int) -> bytes | Refused:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        return Refused(Reason.NOT_A_FILE, "not a regular file")
    if status.st_size > max_size:
        return Refused(Reason.TOO_LARGE, f"{status.st_size} bytes, at most {max_size} are read")
    return path.read_bytes()


def _judge_name(verdict: Verdict, name: str, data: bytes) -> str:
    """Note what the name tells; returns how the file is packed."""
    kept_aside = name.endswith(_KEPT_ASIDE)
    parsed = parse_name(f"{name.removesuffix(_KEPT_ASIDE)}.log" if kept_aside else name)
    if kept_aside and isinstance(parsed, RunLogName):
        verdict.skipped.append(f"extension {_KEPT_ASIDE} is judged as .log, which a spool takes")
    if isinstance(parsed, Refused):
        verdict.refuse(parsed)
        # A copy that was given another extension still tells whose run log it is.
        parsed = parse_name(f"{os.path.splitext(name)[0]}.log")  # noqa: PTH122 - a name, no path
    if isinstance(parsed, RunLogName):
        verdict.node_id, verdict.timestamp = parsed.node_id, parsed.timestamp
    if verdict.error or not isinstance(parsed, RunLogName):
        return _MAGIC.get(data[:2], "")
    return parsed.archive


def _judge_signature(verdict: Verdict, message: bytes, trust: Trust) -> bytes:
    """Note who signed; returns the text, believed or not."""
    known = trust.certificates(verdict.node_id)
    certificates: Sequence[NodeCertificate] = ()
    if isinstance(known, Refused):
        verdict.refuse(known)
    else:
        certificates = known
    verified = verify(message, certificates)
    if not isinstance(verified, Refused):
        verdict.verified = True
        spki = certificates[verified.signer].spki
        verdict.signer = f"sha256:{hashlib.sha256(spki).hexdigest()}"
        return verified.content
    # Without certificates no signer can be known, which has been told already.
    if certificates or verified.reason is not Reason.UNKNOWN_SIGNER:
        verdict.refuse(verified)
    try:
        return text_of(split(message).signed)
    except MimeError:
        return message


def _judge_text(verdict: Verdict, text: bytes, skip: frozenset[str]) -> None:
    """Note what the text reports."""
    found = _NODE.search(text)
    reported = found[1].decode("utf-8", "replace") if found else ""
    verdict.node_id = verdict.node_id or reported or None
    runlog = parse(text, verdict.node_id or "")
    if isinstance(runlog, Refused):
        verdict.refuse(runlog)
        runlog = parse(text, reported)
    if isinstance(runlog, RunLog):
        verdict.type = "complete" if runlog.complete else "partial"
        verdict.config_id = runlog.config_id
        verdict.reports = list(read_copy(runlog.copy))
        verdict.skipped += [*runlog.warnings, *_left_out(verdict.reports, skip)]


def _left_out(reports: Sequence[Report], skip: frozenset[str]) -> list[str]:
    counts = Counter(report.event_type for report in reports if report.event_type in skip)
    return [
        f"not inserted: {printable(event_type, 80)}, {count} times (skip_event_types)"
        for event_type, count in sorted(counts.items())
    ]
