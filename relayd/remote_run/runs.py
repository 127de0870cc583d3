"""All runs of this relayd: each is a task of the service, which its client only follows.

A disconnecting client does not end its run. Neither does time spent waiting: the deadline of a
command begins with the command.
"""

import os
from collections.abc import Awaitable, Callable
from functools import partial
from itertools import islice
from typing import Final

import trio

from relayd.config.main_conf import RemoteRunSettings, Settings
from relayd.errors import NodesError, RelaydError
from relayd.fleet.nodes import Nodes
from relayd.fleet.peers.client import Clients
from relayd.remote_run.answer import Budget, HeldAnswer, NoAnswer, Sink, StreamedAnswer
from relayd.remote_run.audit import Requester, outcome_of, write_audit
from relayd.remote_run.commands.by_command import CommandRunner
from relayd.remote_run.commands.by_helper import HelperRunner
from relayd.remote_run.events import RunReporter
from relayd.remote_run.fanout import Fanout, RunResources
from relayd.remote_run.hop import Calls
from relayd.remote_run.lanes import EXECUTED, MEMORY, Lane, Slot, Waiting
from relayd.remote_run.plan import Plan, make_plan
from relayd.remote_run.request import RunRequest
from relayd.system.libc import no_new_privileges
from relayd.telemetry.logs import get_logger
from relayd.telemetry.metrics import Metrics, RunOutcome

log = get_logger("remote_run")

#: Calls to one sub-relay for runs whose clients have gone; further ones wait.
RELAY_CALLS: Final = 32
#: A request for more nodes is executed at once, instead of finding out whether it could wait.
_FEW: Final = 100
#: Queued runs that get an audit line each when they are dropped; one line counts all.
_AUDITED: Final = 500
#: Nodes of queued runs that this line names.
_NAMED: Final = 20


async def _known() -> None:
    await trio.lowlevel.checkpoint()


def make_runs(
    settings: Settings,
    clients: Clients,
    nodes: Callable[[], Nodes],
    metrics: Metrics,
    known: Callable[[], Awaitable[object]] = _known,
) -> "RemoteRuns":
    """Make `RemoteRuns` from the settings.

    Args:
        settings: all of them.
        clients: connect to sub-relays.
        nodes: returns the current nodes.
        metrics: of the service.
        known: see `RemoteRuns.known`.
    """
    table = settings.remote_run
    runner = (
        CommandRunner(table.command, use_sudo=table.use_sudo)
        if table.helper is None
        else HelperRunner(table.helper)
    )
    if sudo_is_useless(table, os.geteuid(), confined=no_new_privileges()):
        log.warning(
            "sudo cannot start agents here: this process cannot gain privileges",
            detail="set remote_run.helper, or loosen the unit by its drop-in sudo.conf",
        )
    commands = trio.CapacityLimiter(table.max_commands)
    calls = Calls(clients, settings.general.https_port, table.timeout)
    resources = RunResources(runner, commands, calls, table.timeout)
    return RemoteRuns(resources, nodes, known, metrics)


def sudo_is_useless(table: RemoteRunSettings, uid: int, *, confined: bool) -> bool:
    """Return whether sudo is configured but cannot work.

    Args:
        table: the configuration.
        uid: of this process; root does not need sudo's privileges.
        confined: whether this process cannot gain privileges.
    """
    return confined and uid != 0 and table.use_sudo and table.helper is None


class BusyError(RelaydError):
    """No more runs are accepted at the moment: their memory is full."""


class ActiveRun:
    """One run, as seen by the client that follows it.

    Attributes:
        request: the request for it.
        requester: who requested it.
        answer: the answer; read while the run goes on, or at its end.
        decided: set once it is decided how the answer begins.
        failure: why nothing could be started, set before `decided`; None otherwise.
        done: set at the end.
    """

    def __init__(self, request: RunRequest, requester: Requester, answer: Sink) -> None:
        self.request = request
        self.requester = requester
        self.answer = answer
        self.decided = trio.Event()
        self.failure: str | None = None
        self.done = trio.Event()

    def begin(self, failure: str | None) -> None:
        """Set how the answer begins; only the first call has an effect."""
        if not self.decided.is_set():
            self.failure = failure
            self.decided.set()

    def finish(self) -> None:
        """Mark the end."""
        self.begin(None)
        self.answer.end()
        self.done.set()


class RemoteRuns:
    """Accepts runs and executes them.

    A run that somebody follows is executed at once, and waits for each of its commands. One that
    nobody follows waits in the lane of where it goes, if that is one place only.

    Attributes:
        known: waits, for a bounded time, until `nodes` returns loaded ones; raises `NodesError`.

    Args:
        resources: shared by all runs.
        nodes: returns the current nodes.
        known: see above.
        metrics: of the service.
    """

    def __init__(
        self,
        resources: RunResources,
        nodes: Callable[[], Nodes],
        known: Callable[[], Awaitable[object]],
        metrics: Metrics,
    ) -> None:
        self.known = known
        self._resources = resources
        self._nodes = nodes
        self._metrics = metrics
        self._budget = Budget()
        self._nursery: trio.Nursery | None = None
        self._early: list[Callable[[], Awaitable[None]]] = []  # until `run` is scheduled
        self._memory = 0
        self._local = Lane(resources.commands)
        self._away: dict[str, Lane] = {}
        metrics.remote_run_commands.set_function(lambda: resources.commands.borrowed_tokens)
        metrics.remote_runs_queued.set_function(lambda: sum(map(len, self._lanes())))

    def _lanes(self) -> list[Lane]:
        return [self._local, *self._away.values()]

    def start(self, request: RunRequest, requester: Requester) -> ActiveRun:
        """Accept a run, which begins at once in a task of `run`, or when it is its turn.

        Raises:
            BusyError: the memory for runs is full.
        """
        waiting = Waiting(request, requester)
        if self._memory + waiting.size + EXECUTED > MEMORY:
            write_audit(requester, request, "refused", self._metrics)
            raise BusyError("too many remote runs at once")
        self._memory += waiting.size
        run = ActiveRun(request, requester, self._sink(request))
        lane = self._lane(request)
        slot = lane.enter() if lane is not None else None
        if lane is None or slot is not None:
            self._begin_task(partial(self._execute, run, slot, waiting.size))
        else:
            run.begin(None)
            if lane.add(waiting):
                self._begin_task(partial(lane.serve, self._execute_waiting))
        return run

    def _begin_task(self, work: Callable[[], Awaitable[None]]) -> None:
        if self._nursery is None:
            self._early.append(work)
        else:
            self._nursery.start_soon(work, name="remote run")

    def _execute_waiting(self, waiting: Waiting, slot: Slot) -> None:
        run = ActiveRun(waiting.request, waiting.requester, NoAnswer())
        self._begin_task(partial(self._execute, run, slot, waiting.size))

    def _lane(self, request: RunRequest) -> Lane | None:
        """Return where a run waits; None if it need not, or somebody follows it."""
        if not request.asynchronous or request.keep_output or request.events:
            return None
        if request.nodes is None or len(request.nodes) > _FEW:
            return None
        places = {self._place(node) for node in request.nodes}
        return places.pop() if len(places) == 1 else None

    def _place(self, node_id: str) -> Lane | None:
        nodes = self._nodes()
        if nodes.get(node_id) is None:
            return None
        if nodes.is_neighbour(node_id):
            return self._local
        try:
            relay = nodes.next_hop(node_id)
        except NodesError:
            return None
        return self._away.setdefault(relay, Lane(trio.CapacityLimiter(RELAY_CALLS)))

    def _sink(self, request: RunRequest) -> Sink:
        if not (request.keep_output or request.events):
            return NoAnswer()
        return StreamedAnswer() if request.asynchronous else HeldAnswer(self._budget)

    async def run(self) -> None:
        """Execute runs, forever; cancellation ends them and their commands."""
        try:
            async with trio.open_nursery() as self._nursery:
                for work in self._early:
                    self._begin_task(work)
                self._early.clear()
                await trio.sleep_forever()
        finally:
            self._nursery = None
            self._drop_queued()

    def _drop_queued(self) -> None:
        """Log the runs that a stop leaves without a command."""
        dropped = [waiting for lane in self._lanes() for waiting in lane]
        if not dropped:
            return
        nodes = (node for waiting in dropped for node in waiting.request.nodes or ())
        named = ",".join(islice(nodes, _NAMED))
        log.warning("queued remote runs dropped by the stop", runs=len(dropped), nodes=named)
        for waiting in dropped[:_AUDITED]:
            write_audit(waiting.requester, waiting.request, "stopped", self._metrics)
        self._metrics.remote_runs.labels("stopped").inc(len(dropped[_AUDITED:]))

    async def _execute(self, run: ActiveRun, slot: Slot | None, size: int) -> None:
        self._memory += EXECUTED
        began = trio.current_time()
        reporter = RunReporter(
            run.answer, events=run.request.events, keep_output=run.request.keep_output
        )
        plan: Plan | None = None
        outcome: RunOutcome = "stopped"
        try:
            plan = await make_plan(run.request, self._nodes())
            begin = self._begin(run, plan)
            fanout = Fanout(self._resources, plan, run.request, reporter, begin)
            await fanout.run(
                slot if slot is not None and slot.of(self._resources.commands) else None
            )
            outcome = outcome_of(reporter)
        finally:
            if slot is not None:
                slot.release()
            run.finish()
            self._memory -= EXECUTED + size
            seconds = trio.current_time() - began
            write_audit(
                run.requester,
                run.request,
                outcome,
                self._metrics,
                plan=plan,
                reporter=reporter,
                seconds=seconds,
            )

    def _begin(self, run: ActiveRun, plan: Plan) -> Callable[[str | None], None]:
        """Return the callback for the beginning of the answer.

        A failed start is the whole answer only if there is nothing else to report.
        """
        alone = not (plan.hops or run.request.events)
        return lambda failure: run.begin(failure if alone else None)
