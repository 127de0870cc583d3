"""The play: server, keys, configuration, daemon, fleet, picture, and the books at the end."""

import signal
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final

import trio
from rich.console import Console
from rich.live import Live
from rich.padding import Padding

from relayd.commands.demo.fleet.agents import Fleet, Pattern, make_nodes
from relayd.commands.demo.fleet.key_progress import KeyProgress
from relayd.commands.demo.fleet.keys import cache_directory, obtain_keys
from relayd.commands.demo.fleet.node import SimulatedNode
from relayd.commands.demo.fleet.remote_runs import RemoteRunClient
from relayd.commands.demo.fleet.upload import put
from relayd.commands.demo.ledger import Entry, Ledger, balance, read_found
from relayd.commands.demo.observe import Snapshot, observe
from relayd.commands.demo.postgres.opening import open_postgres
from relayd.commands.demo.postgres.server import Server
from relayd.commands.demo.processes.daemon import Daemon
from relayd.commands.demo.processes.workspace import Layout
from relayd.commands.demo.screen import Screen, summary
from relayd.commands.demo.tree import ROOT, Tree, address, open_tree
from relayd.errors import RelaydError

INTERRUPTED: Final = 130

_LOOK_EVERY: Final = 1.0
_LINE_EVERY: Final = 2
_SETTLE_POLL: Final = 0.05
#: A spool that does not shrink for so long, in seconds, is given up; its files count as left.
_SETTLE_DEADLINE: Final = 30.0
#: Remote runs: when the first one begins, and the time between two, in seconds.
_AGENTS_FIRST: Final = 5.0
_AGENTS_EVERY: Final = 30.0


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says.

    Attributes:
        nodes: number of nodes.
        rate: run logs per second of the whole fleet; None: as fast as they can be made.
        once: stop after so many uploads; None: go on until interrupted.
        bad: per cent of uploads with something wrong or sent twice.
        key_bits: size of the nodes' RSA keys.
        relays: number of relays between the nodes and the root server.
        directory: where to write and leave everything; None: a temporary one, of which only
            the logs remain.
    """

    nodes: int
    rate: float | None
    once: int | None
    bad: int
    key_bits: int
    directory: Path | None
    relays: int = 0


def run(options: Options, console: Console) -> int:
    """Run the demo until it is done or interrupted.

    Returns:
        0 when the books balance, 1 when they do not, 130 when it was interrupted before there
        was anything to count.

    Raises:
        RelaydError: something could not be started.
    """
    failures: list[RelaydError] = []
    try:
        return trio.run(partial(_supervise, options, console), strict_exception_groups=True)
    except* RelaydError as group:
        failures += _leaves(group)
    raise failures[0]


def _leaves(group: BaseExceptionGroup[RelaydError]) -> list[RelaydError]:
    found: list[RelaydError] = []
    for error in group.exceptions:
        found += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found


async def _supervise(options: Options, console: Console) -> int:
    root = options.directory or Path(tempfile.mkdtemp(prefix="relayd-demo-"))
    layout = Layout(root, options.relays)
    play = _Play(options, console, layout)
    code = INTERRUPTED
    async with trio.open_nursery() as nursery:
        await nursery.start(play.run_signals, nursery.cancel_scope, name="signals")
        code = await play.run()
        nursery.cancel_scope.cancel()
    # Evidence of books that do not balance stays.
    if options.directory is None and code != 1:
        await trio.to_thread.run_sync(layout.remove_all_but_logs)
    return code


@dataclass(frozen=True, slots=True)
class _Stage:
    """What plays: policy servers and fleet, their daemons, the database server, remote runs."""

    tree: Tree
    fleet: Fleet
    daemons: list[Daemon]
    server: Server
    agents: RemoteRunClient | None


class _Play:
    """One demo; its parts share the layout, the ledger and the wish to stop."""

    def __init__(self, options: Options, console: Console, layout: Layout) -> None:
        self._layout = layout
        self._options = options
        self._console = console
        self._ledger = Ledger()
        self._stop = trio.Event()
        self._playing = False
        self._seconds = 0.0

    async def run_signals(
        self, everything: trio.CancelScope, *, task_status: trio.TaskStatus[None]
    ) -> None:
        """The first signal ends the play in order, a second one (or one too early) at once."""
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
            task_status.started()
            async for _ in signals:
                if self._stop.is_set() or not self._playing:
                    everything.cancel()
                self._stop.set()

    async def run(self) -> int:
        """Start everything, plays, stops everything, prints the balance; the exit code."""
        layout = self._layout
        layout.create()
        async with open_postgres(layout.postgres) as postgres:
            tree, fleet = await self._make_fleet()
            tree.write(postgres.rudder)
            async with open_tree(tree) as daemons:
                agents = self._announce(tree, fleet)
                last = await self._play(_Stage(tree, fleet, daemons, postgres.server, agents))
            found = await trio.to_thread.run_sync(
                read_found,
                postgres.server,
                [workspace.incoming for workspace in layout.workspaces],
                [workspace.failed for workspace in layout.workspaces],
            )
        entries = balance(self._ledger, found, last.duplicates if last else None)
        if agents is not None:
            entries.append(agents.entry())
        return self._conclude(tree, entries)

    def _conclude(self, tree: Tree, entries: list[Entry]) -> int:
        """Print the balance; the exit code."""
        sent = self._ledger.sent
        title = f"{sent} uploads, {sent / max(self._seconds, 0.001):.1f} per second"
        self._console.print(summary(entries, title))
        balanced = all(entry.balanced for entry in entries)
        self._console.print("The books balance." if balanced else "The books do NOT balance.")
        for station in tree.stations:
            whose = f", {station.title}" if tree.relays else ""
            text = f"relayd's log{whose}: {station.workspace.log}"
            self._console.print(text, soft_wrap=True, markup=False)
        return 0 if balanced else 1

    async def _make_fleet(self) -> tuple[Tree, Fleet]:
        options = self._options
        # One more than nodes in the list, since somebody has to be unknown; and the servers'.
        nodes, count = options.nodes + 1, options.nodes + 2 + options.relays
        with KeyProgress(self._console, count, options.key_bits) as progress:
            keys = await obtain_keys(count, options.key_bits, cache_directory(), progress.show)

        def make() -> tuple[Tree, Fleet]:
            now = datetime.now(UTC)
            machines = make_nodes(keys[:nodes], now)
            servers = [
                SimulatedNode(key, address(number), now, None if number else ROOT)
                for number, key in enumerate(keys[nodes:])
            ]
            tree = Tree(self._layout, servers, machines[:-1])
            return tree, Fleet(machines, tree.spools, Pattern(options.bad))

        return await trio.to_thread.run_sync(make)

    async def _play(self, stage: _Stage) -> Snapshot | None:
        """Let the fleet upload until the end; return what relayd says when it has dealt with all."""
        self._playing = True
        async with trio.open_nursery() as nursery:
            for daemon in stage.daemons:
                nursery.start_soon(daemon.watch, name="watch")
            nursery.start_soon(self._show, stage, name="picture")
            begin = trio.current_time()
            async with trio.open_nursery() as agents:
                if stage.agents is not None:
                    agents.start_soon(self._run_agents, stage.agents, name="remote runs")
                await self._feed(stage)
                await self._settle()
                await self._repeat(stage)
            self._seconds = trio.current_time() - begin
            nursery.cancel_scope.cancel()
        return await observe(stage.daemons, stage.server)

    def _announce(self, tree: Tree, fleet: Fleet) -> RemoteRunClient | None:
        """Prepare remote runs, where there are relays, and tells how to make one by hand."""
        if not tree.relays:
            return None
        agents = RemoteRunClient(tree.root.port, len(fleet.nodes) + len(tree.stations))
        self._console.print(f"A remote run by hand: {agents.curl}", soft_wrap=True, markup=False)
        return agents

    async def _run_agents(self, agents: RemoteRunClient) -> None:
        """One remote run, when the number of uploads is limited; else one now and then."""
        if self._options.once is not None:
            await agents.run()
            return
        pause = _AGENTS_FIRST
        while not self._stop.is_set():
            with trio.move_on_after(pause):
                await self._stop.wait()
                return
            await agents.run()
            pause = _AGENTS_EVERY

    async def _feed(self, stage: _Stage) -> None:
        """Upload at the rate asked for; ends when enough is sent or a stop is asked for."""
        period = 1 / self._options.rate if self._options.rate else 0.0
        due = trio.current_time()
        while self._left(stage.fleet.owed) and not self._stop.is_set():
            with trio.move_on_at(due):
                await self._stop.wait()
                return
            await trio.to_thread.run_sync(self._upload, stage)
            # After a hold-up, at most one second of uploads is made up for.
            due = max(due + period, trio.current_time() - 1.0)

    async def _repeat(self, stage: _Stage) -> None:
        """Send again what was to be sent twice and had to leave the spool first."""
        while self._options.once and self._left(0) and not self._stop.is_set():
            await trio.to_thread.run_sync(self._upload, stage)
        await self._settle()

    def _left(self, reserved: int) -> bool:
        once = self._options.once
        return once is None or self._ledger.sent + reserved < once

    def _upload(self, stage: _Stage) -> None:
        upload = stage.fleet.next_upload(datetime.now(UTC))
        self._ledger.add(upload)
        put(stage.tree.spools(upload.node_id)[0], upload)

    async def _settle(self) -> None:
        """Wait until the spools are empty, as long as there are fewer and fewer files in them."""
        # From below: a relay removes a file only when it is in the spool above.
        spools = [workspace.incoming for workspace in reversed(self._layout.workspaces)]
        least, deadline = None, trio.current_time() + _SETTLE_DEADLINE
        while left := await trio.to_thread.run_sync(_count, spools):
            if least is None or left < least:
                least, deadline = left, trio.current_time() + _SETTLE_DEADLINE
            if trio.current_time() > deadline:
                return
            await trio.sleep(_SETTLE_POLL)

    async def _show(self, stage: _Stage) -> None:
        """Draw until cancelled."""
        title = f"relayd demo: {len(stage.fleet.nodes)} nodes"
        picture = Screen(title, stage.tree.names(), stage.tree.relays, stage.agents)
        if not self._console.is_terminal:
            await self._look(stage, picture, partial(self._print_line, picture))
            return
        with Live(console=self._console, auto_refresh=False, transient=True) as live:

            def draw(_: int) -> None:
                # Room for the ^C that the terminal shows: a line that wraps would spoil the end.
                live.update(Padding(picture.panel(), (0, 2, 0, 0)), refresh=True)

            await self._look(stage, picture, draw)

    def _print_line(self, picture: Screen, number: int) -> None:
        if number % _LINE_EVERY == 0:
            self._console.print(picture.line(), soft_wrap=True, markup=False)

    async def _look(self, stage: _Stage, picture: Screen, draw: Callable[[int], None]) -> None:
        number = 0
        while True:
            snapshot = await observe(stage.daemons, stage.server)
            if snapshot is not None:
                picture.add(snapshot, self._ledger.sent)
                draw(number)
                number += 1
            await trio.sleep(_LOOK_EVERY)


def _count(directories: Sequence[Path]) -> int:
    return sum(1 for directory in directories for _ in directory.iterdir())
