"""All runs of this relayd: each is a task of the service, which its client only follows.

So a client that goes away ends no run, and a run ends for nobody's sake but its deadline's.
"""

import os
from collections.abc import Callable
from typing import Final

import trio

from relayd.config.main_conf import RemoteRun, Settings
from relayd.errors import RelaydError
from relayd.fleet.nodes import Nodes
from relayd.fleet.peers.client import Clients
from relayd.remote_run.answer import Budget, Held, Nothing, Sink, Stream
from relayd.remote_run.audit import Asker, outcome_of, write_audit
from relayd.remote_run.by_command import LocalCommand
from relayd.remote_run.by_helper import HelperRunner
from relayd.remote_run.events import Teller
from relayd.remote_run.fanout import Fanout, Means
from relayd.remote_run.plan import Plan, make_plan
from relayd.remote_run.request import Wanted
from relayd.system.libc import no_new_privileges
from relayd.telemetry.logs import get_logger
from relayd.telemetry.metrics import Metrics

log = get_logger("remote_run")

#: Runs in progress; more are refused. A run without output holds a few KiB, one that is followed
#: up to 100 KiB, and held answers share `output.HELD_TOTAL`.
MAX_RUNS: Final = 512
#: Seconds in which, after the deadline of a run, a slow client may take the last verdicts.
FAREWELL_S: Final = 10.0


def make_runs(
    settings: Settings, clients: Clients, nodes: Callable[[], Nodes], metrics: Metrics
) -> "RemoteRuns":
    """Make what takes runs on, from the settings.

    Args:
        settings: all of them.
        clients: speak to sub-relays.
        nodes: gives the nodes in force.
        metrics: of the service.
    """
    table = settings.remote_run
    runner = (
        LocalCommand(table.command, use_sudo=table.use_sudo)
        if table.helper is None
        else HelperRunner(table.helper)
    )
    if sudo_is_vain(table, os.geteuid(), confined=no_new_privileges()):
        log.warning(
            "sudo cannot start agents here: this process can gain no privileges",
            detail="set remote_run.helper, or loosen the unit by its drop-in sudo.conf",
        )
    commands = trio.CapacityLimiter(table.max_commands)
    means = Means(runner, commands, clients, settings.general.https_port)
    return RemoteRuns(means, nodes, table.timeout, metrics)


def sudo_is_vain(table: RemoteRun, uid: int, *, confined: bool) -> bool:
    """Return whether sudo is to be used and cannot work.

    Args:
        table: what is configured.
        uid: of this process; root's needs no privileges of sudo.
        confined: whether it can gain no privileges.
    """
    return confined and uid != 0 and table.use_sudo and table.helper is None


class BusyError(RelaydError):
    """No run is taken on at the moment."""


class Run:
    """One run, as the one who follows it sees it.

    Attributes:
        wanted: what was asked for.
        asker: by whom.
        answer: what is told; followed while it goes on, or read at the end.
        certain: set once it is certain how the answer begins.
        failure: why nothing could be started at all, with `certain`; None otherwise.
        done: set at the end.
    """

    def __init__(self, wanted: Wanted, asker: Asker, answer: Sink) -> None:
        self.wanted = wanted
        self.asker = asker
        self.answer = answer
        self.certain = trio.Event()
        self.failure: str | None = None
        self.done = trio.Event()

    def begin(self, failure: str | None) -> None:
        """Note how the answer begins; only the first time counts."""
        if not self.certain.is_set():
            self.failure = failure
            self.certain.set()

    def finish(self) -> None:
        """Note the end."""
        self.begin(None)
        self.answer.end()
        self.done.set()


class RemoteRuns:
    """Takes runs on and carries them out.

    Args:
        means: what they are carried out with.
        nodes: gives the nodes in force.
        timeout: seconds for one run.
        metrics: of the service.
    """

    def __init__(
        self, means: Means, nodes: Callable[[], Nodes], timeout: float, metrics: Metrics
    ) -> None:
        self._means = means
        self._nodes = nodes
        self._timeout = timeout
        self._metrics = metrics
        self._budget = Budget()
        # Full only between two turns of `run`, which takes them at once.
        self._send, self._receive = trio.open_memory_channel[Run](MAX_RUNS)
        self._open = 0
        metrics.remote_run_commands.set_function(lambda: means.commands.borrowed_tokens)

    def start(self, wanted: Wanted, asker: Asker) -> Run:
        """Take a run on; it begins at once, in a task of `run`.

        Raises:
            BusyError: there are too many.
        """
        if self._open >= MAX_RUNS:
            write_audit(asker, wanted, "refused", self._metrics)
            raise BusyError("too many remote runs at once")
        run = Run(wanted, asker, self._sink(wanted))
        self._open += 1
        self._send.send_nowait(run)
        return run

    def _sink(self, wanted: Wanted) -> Sink:
        if not (wanted.keep_output or wanted.events):
            return Nothing()
        return Stream() if wanted.asynchronous else Held(self._budget)

    async def run(self) -> None:
        """Carry runs out, for ever; cancelling it ends them and their commands."""
        async with trio.open_nursery() as nursery:
            async for run in self._receive:
                nursery.start_soon(self._carry_out, run, name="remote run")

    async def _carry_out(self, run: Run) -> None:
        began = trio.current_time()
        teller = Teller(run.answer, events=run.wanted.events, keep_output=run.wanted.keep_output)
        plan: Plan | None = None
        outcome = "stopped"
        try:
            with trio.move_on_after(self._timeout) as scope:
                plan = await make_plan(run.wanted, self._nodes())
                begin = self._begin(run, plan)
                fanout = Fanout(self._means, plan, run.wanted, teller, begin)
                await fanout.run()
            if scope.cancelled_caught and plan is not None:
                with trio.move_on_after(FAREWELL_S):
                    await fanout.give_up(f"not ended within {self._timeout:g} s")
            outcome = "timeout" if scope.cancelled_caught else outcome_of(teller)
        finally:
            run.finish()
            self._open -= 1
            seconds = trio.current_time() - began
            write_audit(
                run.asker,
                run.wanted,
                outcome,
                self._metrics,
                plan=plan,
                teller=teller,
                seconds=seconds,
            )

    def _begin(self, run: Run, plan: Plan) -> Callable[[str | None], None]:
        """Return a failed start is the answer only where there is nothing else to tell."""
        alone = not (plan.hops or run.wanted.events)
        return lambda failure: run.begin(failure if alone else None)
