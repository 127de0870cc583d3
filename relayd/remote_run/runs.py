"""All runs of this relayd: each is a task of the service, which its client only follows.

A disconnecting client does not end its run; only the deadline does.
"""

import os
from collections.abc import Callable
from typing import Final

import trio

from relayd.config.main_conf import RemoteRunSettings, Settings
from relayd.errors import RelaydError
from relayd.fleet.nodes import Nodes
from relayd.fleet.peers.client import Clients
from relayd.remote_run.answer import Budget, HeldAnswer, NoAnswer, Sink, StreamedAnswer
from relayd.remote_run.audit import Requester, outcome_of, write_audit
from relayd.remote_run.by_command import CommandRunner
from relayd.remote_run.by_helper import HelperRunner
from relayd.remote_run.events import RunReporter
from relayd.remote_run.fanout import Fanout, RunResources
from relayd.remote_run.plan import Plan, make_plan
from relayd.remote_run.request import RunRequest
from relayd.system.libc import no_new_privileges
from relayd.telemetry.logs import get_logger
from relayd.telemetry.metrics import Metrics, RunOutcome

log = get_logger("remote_run")

#: Runs in progress; more are refused. A run without output takes a few KiB, one that is followed
#: up to 100 KiB, and held answers share `answer.HELD_TOTAL`.
MAX_RUNS: Final = 512
#: Seconds after the deadline of a run for a slow client to take the last verdicts.
LAST_VERDICTS_S: Final = 10.0


def make_runs(
    settings: Settings, clients: Clients, nodes: Callable[[], Nodes], metrics: Metrics
) -> "RemoteRuns":
    """Make `RemoteRuns` from the settings.

    Args:
        settings: all of them.
        clients: connect to sub-relays.
        nodes: returns the current nodes.
        metrics: of the service.
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
    resources = RunResources(runner, commands, clients, settings.general.https_port)
    return RemoteRuns(resources, nodes, table.timeout, metrics)


def sudo_is_useless(table: RemoteRunSettings, uid: int, *, confined: bool) -> bool:
    """Return whether sudo is configured but cannot work.

    Args:
        table: the configuration.
        uid: of this process; root does not need sudo's privileges.
        confined: whether this process cannot gain privileges.
    """
    return confined and uid != 0 and table.use_sudo and table.helper is None


class BusyError(RelaydError):
    """No more runs are accepted at the moment."""


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

    Args:
        resources: shared by all runs.
        nodes: returns the current nodes.
        timeout: deadline of a run in seconds.
        metrics: of the service.
    """

    def __init__(
        self, resources: RunResources, nodes: Callable[[], Nodes], timeout: float, metrics: Metrics
    ) -> None:
        self._resources = resources
        self._nodes = nodes
        self._timeout = timeout
        self._metrics = metrics
        self._budget = Budget()
        # Filled only until `run` is scheduled, which takes all of them at once.
        self._send, self._receive = trio.open_memory_channel[ActiveRun](MAX_RUNS)
        self._open = 0
        metrics.remote_run_commands.set_function(lambda: resources.commands.borrowed_tokens)

    def start(self, request: RunRequest, requester: Requester) -> ActiveRun:
        """Accept a run, which begins at once in a task of `run`.

        Raises:
            BusyError: too many runs are in progress.
        """
        if self._open >= MAX_RUNS:
            write_audit(requester, request, "refused", self._metrics)
            raise BusyError("too many remote runs at once")
        run = ActiveRun(request, requester, self._sink(request))
        self._open += 1
        self._send.send_nowait(run)
        return run

    def _sink(self, request: RunRequest) -> Sink:
        if not (request.keep_output or request.events):
            return NoAnswer()
        return StreamedAnswer() if request.asynchronous else HeldAnswer(self._budget)

    async def run(self) -> None:
        """Execute runs, forever; cancellation ends them and their commands."""
        async with trio.open_nursery() as nursery:
            async for run in self._receive:
                nursery.start_soon(self._execute, run, name="remote run")

    async def _execute(self, run: ActiveRun) -> None:
        began = trio.current_time()
        reporter = RunReporter(
            run.answer, events=run.request.events, keep_output=run.request.keep_output
        )
        plan: Plan | None = None
        outcome: RunOutcome = "stopped"
        try:
            with trio.move_on_after(self._timeout) as scope:
                plan = await make_plan(run.request, self._nodes())
                begin = self._begin(run, plan)
                fanout = Fanout(self._resources, plan, run.request, reporter, begin)
                await fanout.run()
            if scope.cancelled_caught and plan is not None:
                with trio.move_on_after(LAST_VERDICTS_S):
                    await fanout.give_up(f"not ended within {self._timeout:g} s")
            outcome = "timeout" if scope.cancelled_caught else outcome_of(reporter)
        finally:
            run.finish()
            self._open -= 1
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
