"""The execution of a plan: commands for neighbours and calls to sub-relays, all in parallel."""

from collections.abc import Callable
from typing import Final

import trio

from relayd.remote_run.commands.runner import Exit, Order, Runner, RunnerError
from relayd.remote_run.commands.watch import Watch
from relayd.remote_run.events import LineCutter, RunEvent, RunReporter, named
from relayd.remote_run.helper.limits import limits_for
from relayd.remote_run.hop import Calls, call_relay
from relayd.remote_run.lanes import Slot
from relayd.remote_run.plan import Plan, orders
from relayd.remote_run.request import RunRequest
from relayd.telemetry.logs import get_logger

log = get_logger("remote_run")

#: Unreachable nodes that get a log line each; the audit line counts all.
_SHOWN: Final = 20


class RunResources:
    """Resources that all runs share.

    Args:
        runner: starts agents on neighbours.
        commands: limits the number of commands that run at the same time.
        calls: how sub-relays are called.
        timeout: seconds for one node, see `relayd.remote_run.helper.limits`.
    """

    def __init__(
        self, runner: Runner, commands: trio.CapacityLimiter, calls: Calls, timeout: float
    ) -> None:
        self.runner = runner
        self.commands = commands
        self.calls = calls
        self.timeout = timeout


class Fanout:
    """The execution of one run.

    Args:
        resources: shared by all runs.
        plan: the division of the run.
        request: the request for the run.
        reporter: receives all events and output.
        decided: called once it is decided how the answer begins: with None if a command runs or is
            queued, else with the reason why it could not be started.
    """

    def __init__(
        self,
        resources: RunResources,
        plan: Plan,
        request: RunRequest,
        reporter: RunReporter,
        decided: Callable[[str | None], None],
    ) -> None:
        self._resources = resources
        self._plan = plan
        self._request = request
        self._reporter = reporter
        self._decided = decided

    async def run(self, slot: Slot | None = None) -> None:
        """Return when each node has its verdict; cancellation ends all commands and calls.

        Args:
            slot: for the first command, if the run has waited for one; the caller releases it.
        """
        plan, request = self._plan, self._request
        await self._queue()
        async with trio.open_nursery() as nursery:
            if not plan.local:
                self._decided(None)
            for hop in plan.hops.values():
                nursery.start_soon(
                    call_relay,
                    hop,
                    request,
                    self._reporter,
                    self._resources.calls,
                    name="remote run hop",
                )
            for order in orders(plan, request):
                mine, slot = slot or await self._next_slot(), None
                nursery.start_soon(self._run_order, order, mine, name="remote run command")
            if slot is not None:  # no longer needed: there is no command
                slot.release()
        await self._reporter.end()

    async def _next_slot(self) -> Slot:
        """Wait for a free command.

        A run waits for one at a time and then queues up again, so runs take turns.
        """
        slot = Slot.take_at_once(self._resources.commands)
        if slot is None:
            self._decided(None)
            slot = await Slot.take(self._resources.commands)
        return slot

    async def _queue(self) -> None:
        plan = self._plan
        self._reporter.expect(plan.nodes())
        await self._reporter.queued(plan.unreachable, plan.me)
        await self._reporter.queued((target.node for target in plan.local), plan.me)
        for hop in plan.hops.values():
            await self._reporter.queued(hop.nodes, hop.relay)
        for number, (node, why) in enumerate(plan.unreachable.items()):
            if number < _SHOWN:
                log.warning("no route to this node", node=node, detail=why)
            await self._reporter.verdict(RunEvent("unreachable", plan.me, node, detail=why))

    async def _run_order(self, order: Order, slot: Slot) -> None:
        """Run one command, then release its slot."""
        watch = Watch(limits_for(self._resources.timeout, len(order.targets)))
        try:
            await _Command(order, self._plan.me, self._resources.runner, self._reporter, watch).run(
                self._decided
            )
        finally:
            slot.release()


class _Command:
    """One command and the reports on it."""

    def __init__(
        self, order: Order, me: str, runner: Runner, reporter: RunReporter, watch: Watch
    ) -> None:
        self._watch = watch
        self._order = order
        self._me = me
        self._runner = runner
        self._reporter = reporter
        self._nodes = [target.node for target in order.targets]
        self._node = self._nodes[0] if len(self._nodes) == 1 else None
        self._lines = LineCutter()
        self._source = f"{me} {self._nodes[0]}"
        self._begun = _Begun()
        self._announced = trio.Event()

    async def run(self, decided: Callable[[str | None], None]) -> None:
        """Run it to its end, when its nodes have their verdicts."""
        watch = self._watch
        with watch.scope:
            outcome = await self._follow(decided)
        if watch.cut:
            decided(None)
            await self._report(self._lines.rest())
            await self._give_up(f"terminated: {watch.reason}")
        elif isinstance(outcome, Exit):
            await self._report(self._lines.rest())
            await self._report_exit(outcome)
        else:
            decided(str(outcome))
            await self._reporter.finish(self._nodes, self._me, str(outcome), "hop_error")

    async def _give_up(self, detail: str) -> None:
        log.warning("command terminated", target=named(self._nodes), detail=detail)
        await self._reporter.give_up(self._nodes, self._me, detail, "exit")

    async def _follow(self, decided: Callable[[str | None], None]) -> Exit | RunnerError:
        outcome: Exit | RunnerError
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._announce, decided)
            try:
                outcome = await self._runner.run(self._order, self._take, task_status=self._begun)
            except RunnerError as error:
                outcome = error
            if not self._begun.event.is_set():
                nursery.cancel_scope.cancel()
        return outcome

    async def _announce(self, decided: Callable[[str | None], None]) -> None:
        await self._begun.event.wait()
        decided(None)
        await self._reporter.started(self._nodes, self._me)
        self._announced.set()

    async def _take(self, data: bytes) -> None:
        if not data:
            self._watch.sign()
            return
        with self._watch.passing_on(len(data)):
            await self._announced.wait()
            await self._report(self._lines.cut(data))

    async def _report(self, data: bytes) -> None:
        if data:
            await self._reporter.output(data, self._me, self._node, self._source)

    async def _report_exit(self, ended: Exit) -> None:
        if ended.code:
            log.warning(
                "command failed", code=ended.code, target=named(self._nodes), detail=ended.detail
            )
        detail = ended.detail if ended.code else ""
        together = len(self._nodes)
        for node in self._nodes:
            await self._reporter.verdict(
                RunEvent("exit", self._me, node, code=ended.code, nodes=together, detail=detail)
            )


class _Begun:
    """A task status that sets an event."""

    def __init__(self) -> None:
        self.event = trio.Event()

    def started(self, _value: None = None) -> None:
        self.event.set()
