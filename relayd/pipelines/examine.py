"""The examine stage: names become run logs, or a reason why there is none."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress

import msgspec
import trio

from relayd.errors import Refused, Retry
from relayd.fleet.admission import Admitted, KnownNodes, admit
from relayd.outputs.results import Stored
from relayd.pipelines.order import NodeOrder
from relayd.pipelines.ticket import Failed, Finished, Settled, Ticket, unfinished
from relayd.pipelines.workers.job import Examined, Job
from relayd.pipelines.workers.pool import Examiner
from relayd.runlog.model import RunLog
from relayd.spool.holds import Holds
from relayd.spool.identity import Identity
from relayd.spool.watching.watcher import Arrival
from relayd.telemetry.logs import get_logger

log = get_logger("examine")


class Accepted(msgspec.Struct, frozen=True):
    """A run log that was examined and found good, and awaits its transaction.

    Attributes:
        ticket: its file.
        identity: of what was read.
        run_log: what was read.
    """

    ticket: Ticket
    identity: Identity
    run_log: RunLog


class _Admitted(msgspec.Struct, frozen=True):
    """A file that may be examined, and how."""

    ticket: Ticket
    job: Job


class ExamineStage:
    """Examines batches of files; several lanes may run it at once.

    Args:
        examiner: does the work, in a thread or in worker processes.
        nodes: returns the nodes in force.
        committed: returns whether this very file was committed already and only has to be removed.
        holds: gets the files that must be tried again, for which newer ones of their node wait.
    """

    def __init__(
        self,
        examiner: Examiner,
        nodes: Callable[[], KnownNodes],
        committed: Callable[[str, Identity], bool],
        holds: Holds | None = None,
    ) -> None:
        self._examiner = examiner
        self._nodes = nodes
        self._committed = committed
        self._holds = holds or Holds()
        self._order = NodeOrder()
        self._receiving = trio.Lock()

    async def run(
        self,
        batches: trio.MemoryReceiveChannel[list[Arrival]],
        to_write: trio.MemorySendChannel[list[Accepted]],
        to_dispose: trio.MemorySendChannel[list[Settled]],
    ) -> None:
        """Examine what arrives; end with the source. Owns its three channel ends."""
        with batches, to_write, to_dispose, suppress(trio.EndOfChannel):
            while True:
                with ExitStack() as stack:
                    # One lane after the other, so that places are taken in the order of arrival.
                    async with self._receiving:
                        admitted, refused = self._admit(await batches.receive())
                        nodes = {file.job.node_id for file in admitted}
                        before = stack.enter_context(self._order.place(nodes))
                    if refused:
                        await to_dispose.send(refused)
                    await self._examine(admitted, before, to_write, to_dispose)

    async def _examine(
        self,
        admitted: list[_Admitted],
        before: Sequence[trio.Event],
        to_write: trio.MemorySendChannel[list[Accepted]],
        to_dispose: trio.MemorySendChannel[list[Settled]],
    ) -> None:
        while admitted:
            results = await self._examiner.examine([file.job for file in admitted])
            for event in before:
                await event.wait()
            accepted, settled = self._sort(admitted, results)
            del admitted[: len(results)]
            if settled:
                await to_dispose.send(settled)
            if accepted:
                await to_write.send(accepted)
            # Some MB that would live on while this lane waits.
            del results, accepted, settled

    def _admit(self, batch: Sequence[Arrival]) -> tuple[list[_Admitted], list[Settled]]:
        """Decide by the names which files are examined at all."""
        nodes, now = self._nodes(), trio.current_time()
        admitted: list[_Admitted] = []
        refused: list[Settled] = []
        for arrival in batch:
            admission = admit(arrival.name, nodes)
            ticket = Ticket(arrival.name, arrival.atomic, now, admission.origin)
            decision = admission.decision
            if isinstance(decision, Admitted) and admission.origin is not None:
                node_id = admission.origin.node_id
                job = Job(arrival.name, decision.archive, node_id, decision.certificates)
                admitted.append(_Admitted(ticket, job))
            elif isinstance(decision, Refused):
                refused.append(Failed(ticket, None, decision, "examine"))
        return admitted, refused

    def _sort(
        self, admitted: Sequence[_Admitted], results: Sequence[Examined]
    ) -> tuple[list[Accepted], list[Settled]]:
        """Separate what must be written from what goes straight to disposal."""
        accepted: list[Accepted] = []
        settled: list[Settled] = []
        for file, examined in zip(admitted, results, strict=False):
            ticket, identity, result = file.ticket, examined.identity, examined.result
            if identity is not None and self._committed(ticket.name, identity):
                settled.append(Finished(ticket, identity, Stored(0, again=True)))
            elif not isinstance(result, RunLog):
                if _may_come_again(ticket, result):
                    self._holds.add(ticket.name)
                settled.append(unfinished(ticket, identity, result, "examine"))
            else:
                assert identity is not None  # whatever was parsed was opened
                _log_flaws(ticket, result)
                accepted.append(Accepted(ticket, identity, result))
        return accepted, settled


def _may_come_again(ticket: Ticket, result: object) -> bool:
    """Return whether a file is tried again, at least if it is young enough."""
    unfinished = isinstance(result, Refused) and result.maybe_unfinished and not ticket.atomic
    return unfinished or isinstance(result, Retry)


def _log_flaws(ticket: Ticket, run_log: RunLog) -> None:
    if run_log.warnings:
        log.warning(
            "run log has flaws",
            flaws=len(run_log.warnings),
            detail=run_log.warnings[0],
            **ticket.describe(),
        )
        for warning in run_log.warnings[1:]:
            log.debug("flaw", detail=warning, **ticket.describe())
