"""The verdicts of the daemon's own stages, to compare with those of `relayd inspect`."""

from collections.abc import Iterable, Sequence

import trio

from relayd.commands.inspect.verdict import Verdict
from relayd.errors import Gone, Refused, Retry
from relayd.fleet.certificates import CertificateStore
from relayd.fleet.nodes import Node, Nodes
from relayd.pipelines.examine import Accepted, ExamineStage
from relayd.pipelines.ticket import Failed, Postponed, Settled, Vanished
from relayd.pipelines.workers.job import Setup
from relayd.pipelines.workers.pool import ThreadExaminer
from relayd.runlog.model import RunLog
from relayd.runlog.signature.certificates import read_certificate
from relayd.spool.identity import Identity
from relayd.spool.watching.watcher import Arrival


def nodes_with(node_ids: Iterable[str], certificates: Iterable[bytes]) -> Nodes:
    """Return known nodes and the certificates (DER) of those that have some."""
    nodes = {node_id: Node(node_id, "host", "root") for node_id in node_ids}
    store = CertificateStore()
    for der in certificates:
        owner, certificate, validity = read_certificate(der)
        if owner in nodes:
            store.add(owner, certificate, validity)
    return Nodes("root", nodes, store)


def daemon_verdicts(setup: Setup, names: Sequence[str], nodes: Nodes) -> dict[str, Verdict]:
    """Return the verdicts of the daemon's examine stage on files of the watched directory."""
    return trio.run(_examine, setup, names, nodes)


async def _examine(setup: Setup, names: Sequence[str], nodes: Nodes) -> dict[str, Verdict]:
    send_batches, batches = trio.open_memory_channel[list[Arrival]](1)
    to_write, write = trio.open_memory_channel[list[Accepted]](len(names))
    to_dispose, dispose = trio.open_memory_channel[list[Settled]](len(names))
    stage = ExamineStage(ThreadExaminer(setup), lambda: nodes, _not_committed)
    with send_batches:
        await send_batches.send([Arrival(name, atomic=True) for name in names])
    await stage.run(batches, to_write, to_dispose)
    verdicts: dict[str, Verdict] = {}
    async for accepted in write:
        verdicts |= {file.ticket.name: file.run_log for file in accepted}
    async for settled in dispose:
        verdicts |= {file.ticket.name: _verdict(file) for file in settled}
    return verdicts


def _not_committed(_name: str, _identity: Identity) -> bool:
    return False


def _verdict(file: Settled) -> Verdict:
    match file:
        case Failed():
            return file.refused
        case Postponed():
            return file.retry
        case Vanished():
            return Gone()
    raise AssertionError(file)


def error_begins(error: str | None, verdict: Verdict) -> bool:
    """Return whether a printed error begins with the reason and detail of a verdict."""
    match verdict:
        case RunLog():
            return error is None
        case Refused(reason, detail):
            wanted = f"{reason}: {detail}"
        case Retry(detail):
            wanted = detail
        case Gone():
            wanted = "cannot be read: No such file or directory"
    return error is not None and (error == wanted or error.startswith(f"{wanted}; "))
