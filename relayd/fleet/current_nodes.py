"""The current nodes: replaced in a single step, and kept when the new files are broken."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import trio

from relayd.config.in_force import File, modified
from relayd.errors import NodesError
from relayd.fleet.loading import Loaded, load_nodes
from relayd.fleet.nodes import Nodes
from relayd.system.delays import DELAYS, Steps
from relayd.system.threads import in_thread
from relayd.telemetry.logs import get_logger
from relayd.telemetry.metrics import Metrics

log = get_logger("nodes")

#: Seconds for which a request waits for the first nodes list; 50,000 nodes take one or two.
KNOWN_S: Final = 20.0


class _ListMissingError(NodesError):
    """The nodes list does not exist."""


class CurrentNodes:
    """Owner of the current `Nodes`.

    Attributes:
        nodes: the current nodes; empty before `ready`.
        ready: set once a nodes list was loaded. Before that, no file may be examined, and `known`
            waits.
        trouble: why the last load failed; None if it succeeded.

    Args:
        list_file: the nodes list.
        certs_file: the certificates.
        my_id: node id of this policy server.
        metrics: gets the gauges of nodes.
        list_needed: whether files are verified with the nodes. If not, a nodes list that never
            existed is not an error; loading it is retried.
        delays: between attempts to load files that are missing or broken.
    """

    def __init__(
        self,
        list_file: Path,
        certs_file: Path,
        my_id: str,
        metrics: Metrics,
        *,
        list_needed: bool = True,
        delays: Steps = DELAYS.nodes,
    ) -> None:
        self._list_file = list_file
        self._certs_file = certs_file
        self._my_id = my_id
        self._metrics = metrics
        self._list_needed = list_needed
        self._delays = delays
        self._lock = trio.Lock()
        self._limiter = trio.CapacityLimiter(1)
        self._failed = trio.Event()
        self._tried = trio.Event()
        self.nodes = Nodes(my_id)
        self.ready = trio.Event()
        self.trouble: str | None = None

    def token(self, node_id: str) -> str:
        """Return `Nodes.trust_token` of the current nodes."""
        return self.nodes.trust_token(node_id)

    async def known(self) -> None:
        """Wait until a nodes list has been loaded; at once if there is one, or loading it failed.

        Raises:
            NodesError: none is loaded, so nothing can be said about any node.
        """
        with trio.move_on_after(KNOWN_S):
            await self._tried.wait()
        if not self.ready.is_set():
            reason = "it is still being read" if self.trouble is None else "the log says why"
            raise NodesError(f"the nodes are not known yet: no nodes list is loaded, {reason}")

    async def load(self) -> None:
        """Load both files and replace the current nodes, or leave everything as it was.

        Raises:
            NodesError: a file is broken; or the nodes list does not exist although it is needed
                or did exist before.
        """
        async with self._lock:
            try:
                # A thread that hangs in a dead file system must not hold up a stop.
                loaded, times = await in_thread(
                    self._load, abandon_on_cancel=True, limiter=self._limiter
                )
            except NodesError as error:
                self._note_trouble(str(error))
                if isinstance(error, _ListMissingError) and self._may_be_missing():
                    return
                raise
            self._replace(loaded)
            for file, modified_at in times.items():
                self._metrics.note_file(file, modified_at)

    def _load(self) -> tuple[Loaded, dict[File, float]]:
        times: dict[File, float] = {
            "nodes_list": modified(self._list_file),
            "certificates": modified(self._certs_file),
        }
        loaded = load_nodes(self._list_file, self._certs_file, self._my_id, self.nodes)
        if loaded.list_missing:
            raise _ListMissingError(f"nodes list {self._list_file} does not exist")
        return loaded, times

    def _note_trouble(self, trouble: str) -> None:
        if trouble != self.trouble:
            effect = "the previous nodes stay in use" if self.ready.is_set() else "files wait"
            if self._may_be_missing():
                effect = "all nodes are unknown"
            log.error("nodes cannot be loaded", detail=trouble, effect=effect)
        self.trouble = trouble
        self._failed.set()
        self._tried.set()

    def _may_be_missing(self) -> bool:
        return not self._list_needed and not self.ready.is_set()

    def _replace(self, loaded: Loaded) -> None:
        self.nodes = loaded.nodes
        self.trouble = None
        if self._failed.is_set():  # otherwise `run` is waiting for this very event
            self._failed = trio.Event()
        self._report_problems(loaded)
        self._metrics.managed_nodes.set(self.nodes.managed_nodes)
        self._metrics.sub_nodes.set(self.nodes.sub_nodes)
        self._check_dates()
        log.info("nodes loaded", nodes=self.nodes.sub_nodes, neighbours=self.nodes.managed_nodes)
        self.ready.set()
        self._tried.set()

    def _report_problems(self, loaded: Loaded) -> None:
        """Log one warning for a load, whatever is wrong with how many entries."""
        # A server that examines no run logs needs the certificates of its sub-relays only.
        warnings = [
            str(one) for one in loaded.warnings if self._list_needed or one.kind != "no_certificate"
        ]
        if warnings:
            log.warning("problem in the nodes data", count=loaded.problems, detail=warnings[0])
        for warning in warnings[1:]:
            log.debug("further problem in the nodes data", detail=warning)

    def _check_dates(self) -> None:
        """Report certificates outside of their validity: a sign of a wrong clock, here or there."""
        now = time.time()
        expired = self.nodes.expired_certificates(now)
        self._metrics.certificate_expired.set(expired)
        if expired:
            log.warning("expired node certificates are still trusted", certificates=expired)
        premature = self.nodes.premature_certificates(now)
        self._metrics.certificate_not_yet_valid.set(premature)
        if premature:
            log.warning(
                "node certificates that are not yet valid are already trusted",
                certificates=premature,
            )

    async def run(self, loaded: Callable[[], None]) -> None:
        """Retry, with growing delays, whenever a load has failed; run forever.

        Args:
            loaded: called after each retry that succeeds.
        """
        while True:
            await self._failed.wait()
            attempts = 0
            while self._failed.is_set():
                attempts += 1
                await trio.sleep(self._delays.after(attempts))
                if self._failed.is_set():
                    await self._retry(loaded)

    async def _retry(self, loaded: Callable[[], None]) -> None:
        try:
            await self.load()
        except NodesError:
            return
        loaded()
