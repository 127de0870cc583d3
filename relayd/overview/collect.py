"""The overview of a running relayd, made when somebody asks."""

import os
import time
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import msgspec
import trio

from relayd import __version__
from relayd.config.main_conf import Settings
from relayd.fleet.current_nodes import CurrentNodes
from relayd.outputs.health import Health
from relayd.outputs.results import StoreFacts
from relayd.overview.failed import FailedIndex
from relayd.overview.held import OnHold, look_at_held
from relayd.overview.model import (
    Backlog,
    FailedState,
    Flow,
    Lag,
    LoggedLine,
    NodesState,
    OutputState,
    Overview,
    Pause,
    Warned,
)
from relayd.overview.nodes import reporting_nodes
from relayd.overview.sentence import judged
from relayd.overview.server import kinds_of, role_of, spools_in_use
from relayd.system.addresses import bracketed
from relayd.system.threads import in_thread
from relayd.telemetry.logs import recent

#: Lines of the log that an overview shows.
SHOWN_LINES: Final = 10
#: An overview is made once for all who ask within this time, seconds.
FRESH_S: Final = 0.5
#: A node is silent after three runs of its agent that did not arrive.
SILENT_AFTER_S: Final = 900.0


class Output(Protocol):
    """What the overview needs to know of a pipeline."""

    health: Health

    def facts(self) -> StoreFacts:
        """Return what its store is like."""


class Measures(Protocol):
    """What relayd has measured about the last minutes."""

    def flow(self) -> Flow:
        """Return the rates of run logs."""

    def backlog(self) -> Backlog:
        """Return what waits."""

    def lag(self) -> Lag:
        """Return how long run logs take."""

    @property
    def since(self) -> float:
        """Unix time since which arrivals are known."""

    def silent(self, seconds: float, known: int) -> int:
        """Return how many of the known nodes have sent no run log for this long."""


class Collector:
    """Makes overviews.

    Args:
        settings: of this relayd.
        trust: the nodes.
        outputs: returns the pipelines.
        pause: returns what is paused.
        measures: of the last minutes.
        started: Unix time of the start of this relayd.
    """

    def __init__(
        self,
        settings: Settings,
        trust: CurrentNodes,
        outputs: Callable[[], Sequence[Output]],
        pause: Callable[[], Pause | None],
        measures: Measures,
        started: float,
    ) -> None:
        self._settings = settings
        self._trust = trust
        self._outputs = outputs
        self._pause = pause
        self._measures = measures
        self._started = started
        self._spools = list(spools_in_use(settings).values())
        self._failed = FailedIndex(self._spools)
        self._lock = trio.Lock()
        self._last: Overview | None = None

    async def __call__(self) -> Overview:
        """Return the overview of now."""
        async with self._lock:
            now = time.time()
            if self._last is None or not 0 <= now - self._last.at < FRESH_S:
                self._last = judged(await self._make(now))
            return self._last

    async def _make(self, now: float) -> Overview:
        nodes = self._trust.nodes
        own = nodes.get(nodes.my_id)
        failed, held = await in_thread(self._look, abandon_on_cancel=True)
        return Overview(
            at=now,
            version=__version__,
            role=role_of(self._settings, nodes.my_id),
            node_id=nodes.my_id,
            hostname=own.hostname if own is not None else "",
            pid=os.getpid(),
            started=self._started,
            kinds=kinds_of(self._settings),
            flow=self._measures.flow(),
            backlog=self._measures.backlog(),
            lag=self._measures.lag(),
            outputs=tuple(self._output(output) for output in self._outputs()),
            nodes=self._nodes(now),
            failed=failed,
            held=held.files,
            nodes_on_hold=held.nodes,
            pause=self._pause(),
            warned=warned(),
        )

    def _look(self) -> tuple[FailedState, OnHold]:
        """Return what the spools show of refused and held files; blocks."""
        return self._failed.look(), look_at_held(self._spools)

    def _output(self, output: Output) -> OutputState:
        health, server = output.health, output.facts().server
        known = server if isinstance(server, msgspec.Struct) else None
        trouble = health.trouble
        return OutputState(
            name=health.output,
            server=known.address if known is not None else self._address(health.output),
            role=known.role if known is not None else None,
            up=None if health.since is None else trouble is None,
            since=health.since,
            trouble=trouble.detail if trouble is not None else None,
            last_done=health.last_done,
        )

    def _address(self, output: str) -> str:
        if output != "upstream":
            return ""
        host = self._settings.output.upstream.host
        return f"{bracketed(host)}:{self._settings.general.https_port}"

    def _nodes(self, now: float) -> NodesState:
        nodes = self._trust.nodes
        known = len(reporting_nodes(nodes))
        reports = "reporting" in kinds_of(self._settings)
        return NodesState(
            known=known,
            silent=self._measures.silent(SILENT_AFTER_S, known) if reports and known else None,
            silent_after_s=SILENT_AFTER_S,
            observed_s=now - self._measures.since,
            trouble=self._trust.trouble,
        )


def warned() -> Warned:
    """Return the last warnings of the log."""
    last = [
        LoggedLine(at=line.at, level=line.level, component=line.component, text=line.text)
        for line in recent().lines[-SHOWN_LINES:]
    ]
    return Warned(count=recent().count, last=tuple(last))
