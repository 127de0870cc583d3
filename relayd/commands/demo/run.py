"""The run of a demo: PostgreSQL, keys, configuration, daemons, fleet, display, final balance."""

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
from relayd.commands.demo.fleet.upload import put
from relayd.commands.demo.ledger import Entry, Ledger, balance, read_final_state
from relayd.commands.demo.observe import Snapshot, observe
from relayd.commands.demo.postgres.opening import open_postgres
from relayd.commands.demo.postgres.server import Server
from relayd.commands.demo.processes.daemon import Daemon
from relayd.commands.demo.processes.workspace import Layout
from relayd.commands.demo.remote_runs import RemoteRunClient
from relayd.commands.demo.screen import Screen, summary
from relayd.commands.demo.tree import ROOT, Tree, address, open_tree
from relayd.errors import RelaydError

INTERRUPTED: Final = 130
BALANCED: Final = "All counts match: no run log was lost or stored twice."
NOT_BALANCED: Final = "The counts marked WRONG do not match."

_REFRESH_INTERVAL: Final = 1.0
#: Without a terminal, every second refresh prints a line.
_REFRESHES_PER_LINE: Final = 2
_SETTLE_POLL: Final = 0.05
#: Stop waiting when the spools have not shrunk for this long, in seconds; their files count as
#: left.
_SETTLE_DEADLINE: Final = 30.0
#: Remote runs: seconds until the first one, and between two.
_REMOTE_RUN_FIRST: Final = 5.0
_REMOTE_RUN_INTERVAL: Final = 30.0


@dataclass(frozen=True, slots=True)
class Options:
    """The options of the command line.

    Attributes:
        nodes: number of nodes.
        rate: run logs per second of the whole fleet; None: as fast as possible.
        once: stop after this many uploads; None: run until interrupted.
        bad: percentage of uploads that are bad or sent twice.
        key_bits: size of the nodes' RSA keys.
        relays: number of relays between the nodes and the root server.
        directory: where to write and keep everything; None: a temporary directory of which only
            the logs are kept.
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
        0 if all counts match, 1 if not, 130 if it was interrupted before there was anything to
        count.

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
    demo = _Demo(options, console, layout)
    code = INTERRUPTED
    async with trio.open_nursery() as nursery:
        await nursery.start(demo.run_signals, nursery.cancel_scope, name="signals")
        code = await demo.run()
        nursery.cancel_scope.cancel()
    # If counts do not match, keep everything as evidence.
    if options.directory is None and code != 1:
        await trio.to_thread.run_sync(layout.remove_all_but_logs)
    return code


@dataclass(frozen=True, slots=True)
class _Parts:
    """The running parts: policy servers, fleet, daemons, database server, remote runs."""

    tree: Tree
    fleet: Fleet
    daemons: list[Daemon]
    server: Server
    remote_runs: RemoteRunClient | None


class _Demo:
    """One demo: its options, its ledger, and the request to stop."""

    def __init__(self, options: Options, console: Console, layout: Layout) -> None:
        self._layout = layout
        self._options = options
        self._console = console
        self._ledger = Ledger()
        self._stop = trio.Event()
        self._uploading = False
        self._seconds = 0.0

    async def run_signals(
        self, everything: trio.CancelScope, *, task_status: trio.TaskStatus[None]
    ) -> None:
        """Stop gracefully on the first signal; at once on a second, or before uploads begin."""
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
            task_status.started()
            async for _ in signals:
                if self._stop.is_set() or not self._uploading:
                    everything.cancel()
                self._stop.set()

    async def run(self) -> int:
        """Start everything, upload, stop everything, print the balance; return the exit code."""
        layout = self._layout
        layout.create()
        async with open_postgres(layout.postgres) as postgres:
            tree, fleet = await self._make_fleet()
            tree.write(postgres.rudder)
            async with open_tree(tree) as daemons:
                remote_runs = self._prepare_remote_runs(tree, fleet)
                last = await self._upload_all(
                    _Parts(tree, fleet, daemons, postgres.server, remote_runs)
                )
            state = await trio.to_thread.run_sync(
                read_final_state,
                postgres.server,
                [workspace.incoming for workspace in layout.workspaces],
                [workspace.failed for workspace in layout.workspaces],
            )
        entries = balance(self._ledger, state, last.duplicates if last else None)
        if remote_runs is not None:
            entries.append(remote_runs.entry())
        return self._conclude(tree, entries)

    def _conclude(self, tree: Tree, entries: list[Entry]) -> int:
        """Print the balance and return the exit code."""
        sent = self._ledger.sent
        title = f"{sent} uploads sent, {sent / max(self._seconds, 0.001):.1f} per second"
        self._console.print(summary(entries, title))
        balanced = all(entry.balanced for entry in entries)
        self._console.print(BALANCED if balanced else NOT_BALANCED)
        for server in tree.servers:
            title = f" ({server.title})" if tree.relays else ""
            text = f"relayd's log{title}: {server.workspace.log}"
            self._console.print(text, soft_wrap=True, markup=False)
        return 0 if balanced else 1

    async def _make_fleet(self) -> tuple[Tree, Fleet]:
        options = self._options
        # The listed nodes and one unknown node; then the root server and the relays.
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

    async def _upload_all(self, parts: _Parts) -> Snapshot | None:
        """Let the fleet upload until the end; return the snapshot after the last upload.

        None when relayd or the database does not answer then.
        """
        self._uploading = True
        async with trio.open_nursery() as nursery:
            for daemon in parts.daemons:
                nursery.start_soon(daemon.watch, name="watch")
            nursery.start_soon(self._show, parts, name="screen")
            begin = trio.current_time()
            async with trio.open_nursery() as runs:
                if parts.remote_runs is not None:
                    runs.start_soon(self._run_remote_runs, parts.remote_runs, name="remote runs")
                await self._feed(parts)
                await self._settle()
                await self._replay(parts)
            self._seconds = trio.current_time() - begin
            nursery.cancel_scope.cancel()
        return await observe(parts.daemons, parts.server)

    def _prepare_remote_runs(self, tree: Tree, fleet: Fleet) -> RemoteRunClient | None:
        """Prepare remote runs if there are relays, and print how to start one by hand."""
        if not tree.relays:
            return None
        remote_runs = RemoteRunClient(tree.root.port, len(fleet.nodes) + len(tree.servers))
        text = f"To start a remote run yourself: {remote_runs.curl}"
        self._console.print(text, soft_wrap=True, markup=False)
        return remote_runs

    async def _run_remote_runs(self, remote_runs: RemoteRunClient) -> None:
        """Start one remote run if the number of uploads is limited, else one at intervals."""
        if self._options.once is not None:
            await remote_runs.run()
            return
        pause = _REMOTE_RUN_FIRST
        while not self._stop.is_set():
            with trio.move_on_after(pause):
                await self._stop.wait()
                return
            await remote_runs.run()
            pause = _REMOTE_RUN_INTERVAL

    async def _feed(self, parts: _Parts) -> None:
        """Upload at the requested rate until enough is sent or a stop is requested."""
        period = 1 / self._options.rate if self._options.rate else 0.0
        due = trio.current_time()
        while self._has_more(parts.fleet.owed) and not self._stop.is_set():
            with trio.move_on_at(due):
                await self._stop.wait()
                return
            await trio.to_thread.run_sync(self._upload, parts)
            # After a delay, catch up on at most one second of uploads.
            due = max(due + period, trio.current_time() - 1.0)

    async def _replay(self, parts: _Parts) -> None:
        """Send the replays that had to wait until the originals had left the spool."""
        while self._options.once and self._has_more(0) and not self._stop.is_set():
            await trio.to_thread.run_sync(self._upload, parts)
        await self._settle()

    def _has_more(self, reserved: int) -> bool:
        once = self._options.once
        return once is None or self._ledger.sent + reserved < once

    def _upload(self, parts: _Parts) -> None:
        upload = parts.fleet.next_upload(datetime.now(UTC))
        self._ledger.add(upload)
        put(parts.tree.spools(upload.node_id)[0], upload)

    async def _settle(self) -> None:
        """Wait until the spools are empty, as long as they keep shrinking."""
        # Bottom up: a relay removes a file only after it is in the spool of the server above.
        spools = [workspace.incoming for workspace in reversed(self._layout.workspaces)]
        least, deadline = None, trio.current_time() + _SETTLE_DEADLINE
        while left := await trio.to_thread.run_sync(_count, spools):
            if least is None or left < least:
                least, deadline = left, trio.current_time() + _SETTLE_DEADLINE
            if trio.current_time() > deadline:
                return
            await trio.sleep(_SETTLE_POLL)

    async def _show(self, parts: _Parts) -> None:
        """Draw the state until cancelled."""
        title = f"relayd demo: {len(parts.fleet.nodes)} nodes"
        screen = Screen(title, parts.tree.names(), parts.tree.relays, parts.remote_runs)
        if not self._console.is_terminal:
            await self._refresh(parts, screen, partial(self._print_line, screen))
            return
        with Live(console=self._console, auto_refresh=False, transient=True) as live:

            def draw(_: int) -> None:
                # Leave space for the ^C that the terminal shows: a line that wraps would not be
                # erased at the end.
                live.update(Padding(screen.panel(), (0, 2, 0, 0)), refresh=True)

            await self._refresh(parts, screen, draw)

    def _print_line(self, screen: Screen, number: int) -> None:
        if number % _REFRESHES_PER_LINE == 0:
            self._console.print(screen.line(), soft_wrap=True, markup=False)

    async def _refresh(self, parts: _Parts, screen: Screen, draw: Callable[[int], None]) -> None:
        number = 0
        while True:
            snapshot = await observe(parts.daemons, parts.server)
            if snapshot is not None:
                screen.add(snapshot, self._ledger.sent)
                draw(number)
                number += 1
            await trio.sleep(_REFRESH_INTERVAL)


def _count(directories: Sequence[Path]) -> int:
    return sum(1 for directory in directories for _ in directory.iterdir())
