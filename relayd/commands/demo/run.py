"""The run of a demo: PostgreSQL, keys, configuration, daemons, fleet, display, final balance."""

import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import trio
from rich.console import Console
from rich.live import Live

from relayd.commands.cli import unpadded
from relayd.commands.demo.cluster.cluster import Cluster, open_cluster
from relayd.commands.demo.cluster.plan import Failing, open_terminal
from relayd.commands.demo.display.accounts import Accounts, files_concerned
from relayd.commands.demo.display.screen import Screen
from relayd.commands.demo.feed import Feed, count_files
from relayd.commands.demo.fleet.agents import Fleet, Pattern, make_nodes
from relayd.commands.demo.fleet.delivery import Delivery
from relayd.commands.demo.fleet.key_progress import KeyProgress
from relayd.commands.demo.fleet.keys import cache_directory, obtain_keys
from relayd.commands.demo.fleet.node import SimulatedNode
from relayd.commands.demo.fleet.upload import SimulatedUpload
from relayd.commands.demo.ledger import Entry, FinalState, Ledger, balance, read_final_state
from relayd.commands.demo.observe import Observer, Snapshot
from relayd.commands.demo.postgres.opening import open_postgres
from relayd.commands.demo.postgres.server import Database, Server
from relayd.commands.demo.processes.daemon import Daemon
from relayd.commands.demo.processes.workspace import Layout
from relayd.commands.demo.remote_runs import RemoteRunClient
from relayd.commands.demo.stopping import ABANDONED, Stopping, ending_signals
from relayd.commands.demo.story import Story
from relayd.commands.demo.tools import tools_of
from relayd.commands.demo.tree import ROOT, Tree, address, open_tree
from relayd.errors import RelaydError, StartError

UNBALANCED: Final = 1
INTERRUPTED: Final = 130
BALANCED: Final = "All counts match: no run log was lost or stored twice."
NOT_BALANCED: Final = "The counts marked WRONG do not match."
STARTING_CLUSTER: Final = "Starting three members of etcd, Patroni and PostgreSQL, and HAProxy."
CLOSING: Final = "Stopping relayd and PostgreSQL; the accounts follow."

_Error = TypeVar("_Error", bound=Exception)

#: With a cluster: relayds that write to it, and how long they hold what it may lose.
_CLUSTER_WRITERS: Final = 2
_HOLD: Final = "5min"

_REFRESH_INTERVAL: Final = 1.0
#: Without a terminal, every second refresh prints a line.
_REFRESHES_PER_LINE: Final = 2
#: Remote runs: seconds until the first one, and between two.
_REMOTE_RUN_FIRST: Final = 5.0
_REMOTE_RUN_INTERVAL: Final = 30.0


@dataclass(frozen=True, slots=True)
class ClusterOptions:
    """What the database is and what happens to it.

    Attributes:
        synchronous: whether commits wait for a standby.
        failovers: names of the planned failovers.
        part: seconds before each of them.
    """

    synchronous: bool
    failovers: tuple[str, ...]
    part: float


@dataclass(frozen=True, slots=True)
class Options:
    """The options of the command line.

    Attributes:
        nodes: number of nodes.
        rate: run logs per second of the whole fleet; None: as fast as possible.
        once: stop after this many uploads; None: run until interrupted.
        bad: percentage of uploads that are bad or sent twice.
        key_bits: size of the nodes' RSA keys.
        story: seconds of each part of the story, in which the database is stopped and relayd is
            killed; None: no story.
        relays: number of relays between the nodes and the root server.
        cluster: the cluster that two relayds write to; None: one PostgreSQL, and one relayd for it.
        directory: where to write and keep everything; None: a temporary directory of which only
            the logs are kept.
    """

    nodes: int
    rate: float | None
    once: int | None
    bad: int
    key_bits: int
    directory: Path | None
    story: float | None
    relays: int = 0
    cluster: ClusterOptions | None = None

    @property
    def writers(self) -> int:
        """Number of relayds that write to the database."""
        return _CLUSTER_WRITERS if self.cluster else 1

    @property
    def servers(self) -> int:
        """Number of all relayds."""
        return self.writers + self.relays


def run(options: Options, console: Console) -> int:
    """Run the demo until it is done or interrupted.

    Returns:
        0 if all counts match, 1 if not, 130 if it was interrupted before the end of the accounts.

    Raises:
        RelaydError: something could not be started.
        KeyboardInterrupt: it was interrupted before anything was uploaded.
    """
    failures: list[RelaydError] = []
    try:
        return trio.run(partial(_supervise, options, console), strict_exception_groups=True)
    except* RelaydError as group:
        failures += _leaves(group)
    except* OSError as group:
        failures += [_system_error(error) for error in _leaves(group)]
    except* KeyboardInterrupt:
        pass
    if failures:
        raise failures[0]
    raise KeyboardInterrupt


def _leaves(group: BaseExceptionGroup[_Error]) -> list[_Error]:
    found: list[_Error] = []
    for error in group.exceptions:
        found += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found


def _system_error(error: OSError) -> StartError:
    """Return the error of a full disk or the like, which ends the demo."""
    where = f"{error.filename}: " if error.filename else ""
    return StartError(f"{where}{error.strerror or error}")


async def _supervise(options: Options, console: Console) -> int:
    # Signals are received until everything is removed: one more must not prevent that.
    with trio.open_signal_receiver(*ending_signals()) as signals:
        demo = _Demo(options, console)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(demo.stopping.watch, signals, name="signals")
            code = await _run(demo, options.directory)
            nursery.cancel_scope.cancel()
    return code


async def _run(demo: "_Demo", directory: Path | None) -> int:
    """Run the demo in a directory, and remove what its output does not name."""
    root = directory or Path(tempfile.mkdtemp(prefix="relayd-demo-"))
    layout = Layout(root, demo.servers - 1)
    code: int | None = None
    try:
        code = await _run_until_stopped(demo, layout)
    finally:
        if directory is None:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(_remove, layout, INTERRUPTED if demo.unread else code)
    if code == INTERRUPTED and not demo.unread:
        demo.say_interrupted()
    return code


async def _run_until_stopped(demo: "_Demo", layout: Layout) -> int:
    with demo.stopping.everything:
        return await demo.run(layout)
    return INTERRUPTED


def _remove(layout: Layout, code: int | None) -> None:
    """Remove the directory; how much of it depends on the exit code, None if an error ended it."""
    if code == INTERRUPTED:
        layout.remove()
    elif code != UNBALANCED:
        layout.remove_all_but_logs()


@dataclass(frozen=True, slots=True)
class _Parts:
    """The running parts: policy servers, uploads, daemons, database server, remote runs."""

    tree: Tree
    feed: Feed
    daemons: list[Daemon]
    server: Database
    remote_runs: RemoteRunClient | None


class _Demo:
    """One demo: its options, its ledger, and the request to stop."""

    def __init__(self, options: Options, console: Console) -> None:
        self.servers = options.servers
        self._options = options
        self._console = console
        self._terminal = console.is_terminal
        self.stopping = Stopping(self._announce, terminal=self._terminal)
        self._ledger = Ledger()
        self._fed = trio.Event()
        self._seconds = 0.0
        self._layout: Layout
        self._screen: Screen
        self._live: Live | None = None
        self._story: Story | Failing | None = None

    @property
    def unread(self) -> bool:
        """Whether the terminal was closed, so that no one can read what is printed."""
        return self.stopping.hung_up or (self._terminal and not self._console.is_terminal)

    def _announce(self, sentence: str) -> None:
        """Show at once what a signal has changed."""
        if self._live is not None:
            self._screen.stopping = sentence
            self._live.refresh()
        else:
            self._console.print(sentence, markup=False)

    def say_interrupted(self) -> None:
        """Say that there are no accounts.

        Raises:
            KeyboardInterrupt: there was nothing to account for.
        """
        if not self.stopping.begun:
            raise KeyboardInterrupt
        self._console.print(ABANDONED)

    async def run(self, layout: Layout) -> int:
        """Start everything, upload, stop everything, print the balance; return the exit code."""
        self._layout = layout
        layout.create()
        async with self._open_database() as server:
            tree, feed = await self._make_fleet()
            hold = {"hold": _HOLD} if self._options.cluster else {}
            await trio.to_thread.run_sync(partial(tree.write, server.rudder, **hold))
            async with open_tree(tree) as daemons:
                self._print_tools(tree)
                remote_runs = self._prepare_remote_runs(tree, feed.fleet)
                last = await self._upload_all(_Parts(tree, feed, daemons, server, remote_runs))
            kept = feed.delivery.names
            state = await trio.to_thread.run_sync(self._final_state, server, kept)
        entries = balance(self._ledger, state, self._recognized(last, feed.delivery))
        if remote_runs is not None:
            entries.append(remote_runs.entry())
        return self._print_accounts(tree, entries, last)

    @asynccontextmanager
    async def _open_database(self) -> AsyncIterator[Database]:
        chosen = self._options.cluster
        if chosen is None:
            async with open_postgres(self._layout.postgres) as postgres:
                yield postgres.server
            return
        self._console.print(STARTING_CLUSTER)
        async with open_cluster(synchronous=chosen.synchronous) as cluster:
            # A crashed PostgreSQL is replaced, not started again on the same machine.
            await cluster.configure(primary_start_timeout=0)
            yield cluster

    def _final_state(self, server: Database, kept: frozenset[str]) -> FinalState:
        workspaces = self._layout.workspaces
        incoming = [workspace.incoming for workspace in workspaces]
        failed = [workspace.failed for workspace in workspaces]
        try:
            return read_final_state(server, incoming, failed, kept)
        except RuntimeError as error:
            raise StartError(f"the database cannot be read: {error}") from error

    def _recognized(self, last: Snapshot | None, delivery: Delivery) -> int | None:
        """Return the number of recognized replays; None if relayd does not know all of them.

        Nor is it known if an answer was lost: what is sent again then may be a replay or not.
        """
        killed = self._story is not None and self._story.happened
        if last is None or last.counters is None or killed or delivery.unanswered:
            return None
        return last.counters.duplicates

    def _print_accounts(self, tree: Tree, entries: list[Entry], last: Snapshot | None) -> int:
        """Print the balance and return the exit code."""
        sent = self._ledger.sent
        rate = f"{sent / max(self._seconds, 0.001):.1f} per second"
        title = f"{sent} upload{'' if sent == 1 else 's'} sent, {rate}"
        with unpadded(self._console):
            self._console.print(Accounts(title, entries))
        for sentence in self._story.happened if self._story else ():
            self._console.print(sentence, markup=False)
        if isinstance(self._story, Failing):
            self._console.print(_restored(last))
        balanced = all(entry.balanced for entry in entries)
        self._console.print(BALANCED if balanced else NOT_BALANCED)
        if not balanced:
            self._print_evidence(entries)
        for server in tree.servers:
            title = f" ({server.title})" if len(tree.servers) > 1 else ""
            text = f"relayd's log{title}: {server.workspace.log}"
            self._console.print(text, soft_wrap=True, markup=False)
        return 0 if balanced else UNBALANCED

    def _print_evidence(self, entries: list[Entry]) -> None:
        """Print the names of the files that do not match, and where everything is kept."""
        for line in files_concerned(entries):
            self._console.print(line, soft_wrap=True, markup=False)
        text = f"Files of these names may be below {self._layout.root}, where everything is kept."
        self._console.print(text, soft_wrap=True, markup=False)

    async def _make_fleet(self) -> tuple[Tree, Feed]:
        options = self._options
        # The listed nodes, one that is silent and one that is unknown; then the policy servers.
        nodes, count = options.nodes + 2, options.nodes + 2 + options.servers
        with KeyProgress(self._console, count, options.key_bits) as progress:
            keys = await obtain_keys(count, options.key_bits, cache_directory(), progress.show)

        def make() -> tuple[Tree, Feed]:
            now = datetime.now(UTC)
            machines = make_nodes(keys[:nodes], now)
            servers = [
                SimulatedNode(key, address(number), now, None if number else ROOT)
                for number, key in enumerate(keys[nodes:])
            ]
            tree = Tree(self._layout, servers, machines[:-1], writers=options.writers)
            del machines[-2]
            return tree, self._make_feed(tree, machines)

        return await trio.to_thread.run_sync(make)

    def _make_feed(self, tree: Tree, machines: list[SimulatedNode]) -> Feed:
        options, delivery = self._options, Delivery(tree.destination)

        def is_waiting(upload: SimulatedUpload) -> bool:
            return delivery.holds(upload.name) or tree.holds(upload)

        return Feed(
            options.rate,
            options.once,
            Fleet(machines, is_waiting, Pattern(options.bad)),
            delivery,
            self._ledger,
            [workspace.incoming for workspace in reversed(self._layout.workspaces)],
            self.stopping.requested,
        )

    async def _upload_all(self, parts: _Parts) -> Snapshot | None:
        """Let the fleet upload until the end.

        Returns:
            The snapshot after the last upload; None if relayd was not given the time for all.
        """
        title = f"relayd demo: {len(parts.feed.fleet.nodes)} nodes"
        self._screen = Screen(
            title,
            parts.tree.names(),
            parts.tree.relays,
            parts.remote_runs,
            tools=tuple(tools_of(parts.tree.root.workspace, parts.tree.root.port)),
        )
        self.stopping.begun = True
        workspaces = self._layout.workspaces
        observer = Observer(
            parts.daemons,
            parts.server,
            [workspace.incoming for workspace in workspaces],
            [workspace.failed for workspace in workspaces],
            writers=parts.tree.writers,
        )
        async with trio.open_nursery() as nursery:
            for daemon in parts.daemons:
                nursery.start_soon(daemon.watch, name="watch")
            nursery.start_soon(_watch_database, parts.server, name="database")
            nursery.start_soon(self._show, observer, parts.feed.delivery, name="screen")
            begin = trio.current_time()
            with self.stopping.patience:
                await self._work(parts)
            self._seconds = trio.current_time() - begin
            nursery.cancel_scope.cancel()
        self._console.print(CLOSING)
        return None if self.stopping.patience.cancelled_caught else await observer.observe()

    async def _work(self, parts: _Parts) -> None:
        """Upload, run agents and let faults happen until relayd has processed everything."""
        async with trio.open_nursery() as runs:
            if parts.remote_runs is not None:
                runs.start_soon(self._run_remote_runs, parts.remote_runs, name="remote runs")
            async with trio.open_nursery() as faults:
                if (story := self._make_story(parts)) is not None:
                    faults.start_soon(story.run, name="story")
                await parts.feed.run()
                self._fed.set()
            await parts.feed.finish()
            if isinstance(story, Failing):
                await story.restored(len(self._ledger.good))

    def _make_story(self, parts: _Parts) -> Story | Failing | None:
        """Return what happens while the fleet uploads."""
        server, chosen = parts.server, self._options.cluster
        if isinstance(server, Cluster) and chosen is not None:
            terminal = open_terminal() if self._terminal else None
            self._story = Failing(
                server, chosen.failovers, chosen.part, self._fed, self._say, terminal
            )
        elif isinstance(server, Server) and self._options.story:
            spools = [workspace.incoming for workspace in self._layout.workspaces]
            self._story = Story(
                server,
                parts.daemons[0],
                partial(count_files, spools),
                lambda: parts.feed.delivery.kept,
                self._fed,
                self._say,
                self._options.story,
            )
        return self._story

    def _say(self, sentence: str) -> None:
        self._screen.story = sentence
        if not self._console.is_terminal:
            self._console.print(sentence, soft_wrap=True, markup=False)

    def _print_tools(self, tree: Tree) -> None:
        """Print how to see this relayd as its operator would."""
        for line in tools_of(tree.root.workspace, tree.root.port):
            self._console.print(line, soft_wrap=True, markup=False)

    def _prepare_remote_runs(self, tree: Tree, fleet: Fleet) -> RemoteRunClient | None:
        """Prepare remote runs if there are relays, and print how to start one by hand."""
        if not tree.relays:
            return None
        remote_runs = RemoteRunClient(tree.root.port, len(fleet.nodes) + 1 + len(tree.servers))
        text = f"To start a remote run yourself: {remote_runs.curl}"
        self._console.print(text, soft_wrap=True, markup=False)
        return remote_runs

    async def _run_remote_runs(self, remote_runs: RemoteRunClient) -> None:
        """Start one remote run if the number of uploads is limited, else one at intervals."""
        if self._options.once is not None:
            await remote_runs.run()
            return
        pause = _REMOTE_RUN_FIRST
        while not self.stopping.requested.is_set():
            with trio.move_on_after(pause):
                await self.stopping.requested.wait()
                return
            await remote_runs.run()
            pause = _REMOTE_RUN_INTERVAL

    async def _show(self, observer: Observer, delivery: Delivery) -> None:
        """Draw the state until cancelled."""
        if not self._console.is_terminal:
            await self._refresh(observer, delivery, self._print_line)
            return
        # On the alternate screen: what the terminal showed before is not overwritten, and nothing
        # of the display is left at the end.
        with Live(console=self._console, auto_refresh=False, screen=True) as live:
            self._live = live
            try:
                await self._refresh(
                    observer, delivery, lambda _: live.update(self._screen, refresh=True)
                )
            finally:
                self._live = None

    def _print_line(self, number: int) -> None:
        if number % _REFRESHES_PER_LINE == 0:
            self._console.print(self._screen.line(), soft_wrap=True, markup=False)

    async def _refresh(
        self, observer: Observer, delivery: Delivery, draw: Callable[[int], None]
    ) -> None:
        number = 0
        while True:
            self._screen.add(await observer.observe(), self._ledger.sent, delivery.kept)
            draw(number)
            number += 1
            await trio.sleep(_REFRESH_INTERVAL)


def _restored(last: Snapshot | None) -> str:
    """Return what relayd knows to have been lost by failovers."""
    if last is None or last.counters is None:
        return "It is not known how many run logs the failovers lost."
    return f"Lost by failovers and stored again from held files: {last.counters.restored} run logs."


async def _watch_database(server: Database) -> None:
    """Raise `StartError` if the database server ends by itself, because its disk is full say."""
    while True:
        if cause := await trio.to_thread.run_sync(server.crash):
            raise StartError(f"PostgreSQL exited unexpectedly: {cause}")
        await trio.sleep(_REFRESH_INTERVAL)
