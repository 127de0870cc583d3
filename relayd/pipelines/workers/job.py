"""Reading, verifying and parsing run logs: synchronous, without Trio, the same in every process."""

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

#: One call stops early when its results hold this many bytes, so that a batch of huge run logs
#: does not gather in memory: at most this, and one run log more.
RESULT_BYTES: Final = 4 * 2**20

#: One call stops early after this many seconds, so that huge files do not look like an endless
#: loop together, and the good ones among them are not held up.
CALL_S: Final = 2.0


class Job(msgspec.Struct, frozen=True, array_like=True):
    """One file to look at.

    Attributes:
        name: base name in the watched directory.
        archive: "gz", "zip" or "".
        node_id: the node that the name tells.
        certificates: those of this node.
    """

    name: str
    archive: str
    node_id: str
    certificates: tuple[NodeCertificate, ...]


class Examined(msgspec.Struct, frozen=True, array_like=True):
    """What was found.

    Attributes:
        identity: of what was judged; None when the file is gone or cannot even be looked at.
        result: the run log, or why there is none.
    """

    identity: Identity | None
    result: RunLog | Refused | Retry | Gone


class Setup(msgspec.Struct, frozen=True):
    """What all jobs have in common.

    Attributes:
        directory: the watched directory.
        max_size: cap on the decompressed size of a run log, bytes.
        skip_event_types: event types that are not inserted.
    """

    directory: str
    max_size: int
    skip_event_types: frozenset[str]


def examine(setup: Setup, jobs: Sequence[Job]) -> list[Examined]:
    """Examine files in order.

    Returns:
        One result for each of the first jobs; fewer than jobs when `RESULT_BYTES` or `CALL_S`
        was reached, never none.
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
    """Read, unpacks, verifies and parses one file; what is wrong with it is in the result."""
    path = f"{setup.directory}/{job.name}"
    descriptor = open_file(path)
    if not isinstance(descriptor, int):
        return Examined(identity_or_none(path), descriptor)
    try:
        status = os.fstat(descriptor)
        return Examined(identity(status), _judge(setup, job, descriptor, status))
    except OSError as error:
        return Examined(identity_or_none(path), try_later("cannot be read", error))
    except MemoryError:
        return Examined(identity_or_none(path), Retry("not enough memory to examine it"))
    finally:
        os.close(descriptor)


def _judge(
    setup: Setup, job: Job, descriptor: int, status: os.stat_result
) -> RunLog | Refused | Retry:
    refused = objection(status)
    if refused is not None:
        return refused
    if status.st_size > setup.max_size:
        return Refused(
            Reason.TOO_LARGE, f"{status.st_size} bytes, at most {setup.max_size} are read"
        )
    message = unpack(_read(descriptor, status.st_size), job.archive, setup.max_size)
    if isinstance(message, Refused):
        return message
    verified = verify(message, job.certificates)
    if not isinstance(verified, Verified):
        return verified
    return parse(verified.content, job.node_id, setup.skip_event_types)


def _read(descriptor: int, size: int) -> bytes:
    """Return all bytes up to the size that fstat told; a file cut meanwhile ends earlier."""
    data = os.read(descriptor, size)
    if len(data) == size or not data:
        return data
    parts = [data]
    left = size - len(data)
    while left and (data := os.read(descriptor, left)):
        parts.append(data)
        left -= len(data)
    return b"".join(parts)
