"""Carries a plan out: commands for my neighbours and calls to sub-relays, all side by side."""

from collections.abc import Callable
from typing import Final

import trio

from relayd.fleet.peers.client import Clients
from relayd.remote_run.events import Event, LineCutter, Teller
from relayd.remote_run.hop import call_relay
from relayd.remote_run.plan import Plan, orders
from relayd.remote_run.request import Wanted
from relayd.remote_run.runner import Exit, Order, Runner, RunnerError
from relayd.telemetry.logs import get_logger

log = get_logger("remote_run")

#: Nodes without a way that get a log line each; the audit line counts all.
_SHOWN: Final = 20


class Means:
    """What runs are carried out with.

    Args:
        runner: starts agents on neighbours.
        commands: a token for each command that may run at the same time.
        clients: speak to sub-relays; their peers are named by node id.
        port: HTTPS port of sub-relays.
    """

    def __init__(
        self, runner: Runner, commands: trio.CapacityLimiter, clients: Clients, port: int
    ) -> None:
        self.runner = runner
        self.commands = commands
        self.clients = clients
        self.port = port


class Fanout:
    """One run.

    Args:
        means: shared by all runs.
        plan: who does what.
        wanted: what is asked for.
        teller: hears of everything.
        certain: called once it is certain how the answer begins: a command runs, waits for its
            turn, or could not be started, which is told by its argument.
    """

    def __init__(
        self,
        means: Means,
        plan: Plan,
        wanted: Wanted,
        teller: Teller,
        certain: Callable[[str | None], None],
    ) -> None:
        self._means = means
        self._plan = plan
        self._wanted = wanted
        self._teller = teller
        self._certain = certain

    async def run(self) -> None:
        """Return when each node has its verdict; cancelling it ends all commands and calls."""
        plan, wanted = self._plan, self._wanted
        await self._queue()
        async with trio.open_nursery() as nursery:
            if not plan.local:
                self._certain(None)
            for order in orders(plan, wanted.conditions):
                nursery.start_soon(self._run_order, order, name="remote run command")
            for hop in plan.hops.values():
                nursery.start_soon(
                    call_relay,
                    hop,
                    wanted,
                    self._teller,
                    self._means.clients,
                    self._means.port,
                    name="remote run hop",
                )

    async def _queue(self) -> None:
        plan = self._plan
        self._teller.take_on(plan.nodes())
        await self._teller.queued(plan.lost, plan.me)
        await self._teller.queued((target.node for target in plan.local), plan.me)
        for hop in plan.hops.values():
            await self._teller.queued(hop.nodes, hop.relay)
        for number, (node, why) in enumerate(plan.lost.items()):
            if number < _SHOWN:
                log.warning("no way to this node", node=node, detail=why)
            await self._teller.verdict(Event("unreachable", plan.me, node, detail=why))

    async def _run_order(self, order: Order) -> None:
        """One command, when it is its turn."""
        commands = self._means.commands
        try:
            commands.acquire_nowait()
        except trio.WouldBlock:
            self._certain(None)
            await commands.acquire()
        try:
            await _Command(order, self._plan.me, self._means.runner, self._teller).run(
                self._certain
            )
        finally:
            commands.release()

    async def give_up(self, detail: str) -> None:
        """Return all nodes their verdict that have none: the time of the run is over."""
        plan, teller = self._plan, self._teller
        await teller.unfinished(plan.lost, plan.me, detail, "unreachable")
        await teller.unfinished((target.node for target in plan.local), plan.me, detail, "exit")
        for hop in plan.hops.values():
            await teller.unfinished(hop.nodes, hop.relay, detail, "hop_error")


class _Command:
    """One command and what is told of it."""

    def __init__(self, order: Order, me: str, runner: Runner, teller: Teller) -> None:
        self._order = order
        self._me = me
        self._runner = runner
        self._teller = teller
        self._nodes = [target.node for target in order.targets]
        self._node = self._nodes[0] if len(self._nodes) == 1 else None
        self._lines = LineCutter()
        self._source = f"{me} {self._nodes[0]}"
        self._begun = _Begun()
        self._told = trio.Event()

    async def run(self, certain: Callable[[str | None], None]) -> None:
        """Run it to its end; its nodes have their verdicts then."""
        outcome: Exit | RunnerError
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._announce, certain)
            try:
                outcome = await self._runner.run(self._order, self._take, task_status=self._begun)
                await self._tell(self._lines.rest())
            except RunnerError as error:
                outcome = error
            if not self._begun.event.is_set():
                nursery.cancel_scope.cancel()
        if isinstance(outcome, Exit):
            await self._tell_exit(outcome)
            return
        certain(str(outcome))
        await self._teller.unfinished(self._nodes, self._me, str(outcome), "hop_error")

    async def _announce(self, certain: Callable[[str | None], None]) -> None:
        await self._begun.event.wait()
        certain(None)
        await self._teller.started(self._nodes, self._me)
        self._told.set()

    async def _take(self, data: bytes) -> None:
        await self._told.wait()
        await self._tell(self._lines.cut(data))

    async def _tell(self, data: bytes) -> None:
        if data:
            await self._teller.output(data, self._me, self._node, self._source)

    async def _tell_exit(self, ended: Exit) -> None:
        if ended.code:
            log.warning(
                "command failed", code=ended.code, nodes=len(self._nodes), detail=ended.detail
            )
        detail = ended.detail if ended.code else ""
        together = len(self._nodes)
        for node in self._nodes:
            await self._teller.verdict(
                Event("exit", self._me, node, code=ended.code, nodes=together, detail=detail)
            )


class _Begun:
    """A task status that is only listened to."""

    def __init__(self) -> None:
        self.event = trio.Event()

    def started(self, _value: None = None) -> None:
        self.event.set()
