"""Reading, verifying and parsing of run logs: synchronous, without Trio.

Worker processes, the thread of a single core and `relayd inspect` all call `examine_one`.
"""

import os
import time
from collections.abc import Sequence
from typing import Final

import msgspec

from relayd.errors import Gone, Reason, Refused, Retry
from relayd.runlog.archive import unpack
from relayd.runlog.model import NodeCertificate, RunLog, Verified
from relayd.runlog.parser import parse
from relayd.runlog.signature.smime import verify
from relayd.spool.identity import Identity, identity
from relayd.spool.opening import identity_or_none, objection, open_file, try_later

#: A call stops early when its results exceed this many bytes, which limits the memory that a batch
#: of huge run logs takes to this, plus one run log.
RESULT_BYTES: Final = 4 * 2**20

#: A call stops early after this many seconds, so that many huge files are not mistaken for an
#: endless loop, and results of the first ones are not delayed.
CALL_S: Final = 2.0


class Job(msgspec.Struct, frozen=True, array_like=True):
    """A file to examine.

    Attributes:
        name: base name in the watched directory.
        archive: "gz", "zip" or "" (not packed).
        node_id: the node in the file's name.
        certificates: the certificates of this node.
    """

    name: str
    archive: str
    node_id: str
    certificates: tuple[NodeCertificate, ...]


class Examined(msgspec.Struct, frozen=True, array_like=True):
    """The result of an examination.

    Attributes:
        identity: of the file that was examined; None if it is gone or its status is unavailable.
        result: the run log, or the reason why the file gives none.
    """

    identity: Identity | None
    result: RunLog | Refused | Retry | Gone


class Setup(msgspec.Struct, frozen=True):
    """Settings of all jobs.

    Attributes:
        directory: the watched directory.
        max_size: maximum size of a run log in bytes, packed and unpacked.
        skip_event_types: event types that are not inserted.
    """

    directory: str
    max_size: int
    skip_event_types: frozenset[str]


def examine(setup: Setup, jobs: Sequence[Job]) -> list[Examined]:
    """Examine files in order.

    Returns:
        One result for each of the first jobs: at least one, and fewer than jobs if
        `RESULT_BYTES` or `CALL_S` was reached.
    """
    results: list[Examined] = []
    size = 0
    until = time.monotonic() + CALL_S
    for job in jobs:
        examined = examine_one(setup, job)
        results.append(examined)
        if isinstance(examined.result, RunLog):
            size += len(examined.result.copy)
        if size >= RESULT_BYTES or time.monotonic() > until:
            break
    return results


def examine_one(setup: Setup, job: Job) -> Examined:
    """Read, unpack, verify and parse one file; any fault of the file is in the result."""
    path = f"{setup.directory}/{job.name}"
    descriptor = open_file(path)
    if not isinstance(descriptor, int):
        return Examined(identity_or_none(path), descriptor)
    try:
        status = os.fstat(descriptor)
        return Examined(identity(status), _run_log(setup, job, descriptor, status))
    except OSError as error:
        return Examined(identity_or_none(path), try_later("cannot be read", error))
    except MemoryError:
        return Examined(identity_or_none(path), Retry("not enough memory to examine it"))
    finally:
        os.close(descriptor)


def read_content(
    descriptor: int, status: os.stat_result, archive: str, max_size: int
) -> bytes | Refused:
    """Return the unpacked content of an opened file.

    Args:
        descriptor: of the file, positioned at its beginning.
        status: as of fstat(2).
        archive: "gz", "zip" or "" (not packed).
        max_size: maximum size in bytes, packed and unpacked.

    Raises:
        OSError: it cannot be read.
    """
    refused = objection(status)
    if refused is not None:
        return refused
    if status.st_size > max_size:
        return Refused(Reason.TOO_LARGE, f"{status.st_size} bytes, at most {max_size} are read")
    return unpack(_read(descriptor, status.st_size), archive, max_size)


def _run_log(setup: Setup, job: Job, descriptor: int, status: os.stat_result) -> RunLog | Refused:
    message = read_content(descriptor, status, job.archive, setup.max_size)
    if isinstance(message, Refused):
        return message
    verified = verify(message, job.certificates)
    if not isinstance(verified, Verified):
        return verified
    return parse(verified.content, job.node_id, setup.skip_event_types)


def _read(descriptor: int, size: int) -> bytes:
    """Return the first `size` bytes; fewer if the file was truncated after fstat(2)."""
    data = os.read(descriptor, size)
    if len(data) == size or not data:
        return data
    parts = [data]
    left = size - len(data)
    while left and (data := os.read(descriptor, left)):
        parts.append(data)
        left -= len(data)
    return b"".join(parts)
