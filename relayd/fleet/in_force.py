"""The nodes in force: loaded aside, put in place in one step, kept when a new version is broken."""

import time
from collections.abc import Callable
from pathlib import Path

import trio

from relayd.errors import NodesError
from relayd.fleet.nodes import Loaded, Nodes, load_nodes
from relayd.system.delays import DELAYS, Steps
from relayd.system.threads import in_thread
from relayd.telemetry.logs import get_logger
from relayd.telemetry.metrics import Metrics

log = get_logger("nodes")


class _ListMissingError(NodesError):
    """There is no nodes list."""


class Trust:
    """Owner of the current `Nodes`.

    Attributes:
        nodes: the nodes in force; none before `ready`.
        ready: set once a nodes list was loaded. Before that, no file may be judged.
        trouble: why the last load failed, None when it did not.

    Args:
        list_file: the nodes list.
        certs_file: the certificates.
        my_id: node id of this policy server.
        metrics: gets the gauges of nodes.
        list_needed: whether files are judged by the nodes. Where they are not, a nodes list that
            was never there is looked for again, and no error.
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
        self.nodes = Nodes(my_id)
        self.ready = trio.Event()
        self.trouble: str | None = None

    def token(self, node_id: str) -> str:
        """`Nodes.trust_token` of the nodes in force."""
        return self.nodes.trust_token(node_id)

    async def load(self) -> None:
        """Load both files and puts them in force, or leaves everything as it was.

        Raises:
            NodesError: a file is broken, or the nodes list is not there and was, or is needed.
        """
        async with self._lock:
            try:
                # A thread that hangs in a dead file system must not hold up a stop.
                loaded = await in_thread(self._load, abandon_on_cancel=True, limiter=self._limiter)
            except NodesError as error:
                self._note_trouble(str(error))
                if isinstance(error, _ListMissingError) and self._does_without():
                    return
                raise
            self._put_in_force(loaded)

    def _load(self) -> Loaded:
        loaded = load_nodes(self._list_file, self._certs_file, self._my_id, self.nodes)
        if loaded.list_missing:
            raise _ListMissingError(f"nodes list {self._list_file} is not there")
        return loaded

    def _note_trouble(self, trouble: str) -> None:
        if trouble != self.trouble:
            effect = "the former nodes stay in force" if self.ready.is_set() else "files wait"
            if self._does_without():
                effect = "no node is known"
            log.error("nodes cannot be loaded", detail=trouble, effect=effect)
        self.trouble = trouble
        self._failed.set()

    def _does_without(self) -> bool:
        return not self._list_needed and not self.ready.is_set()

    def _put_in_force(self, loaded: Loaded) -> None:
        self.nodes = loaded.nodes
        self.trouble = None
        if self._failed.is_set():  # else `run` waits for this very event
            self._failed = trio.Event()
        for warning in loaded.warnings:
            log.warning("nodes", detail=warning)
        self._metrics.managed_nodes.set(self.nodes.managed_nodes)
        self._metrics.sub_nodes.set(self.nodes.sub_nodes)
        self._judge_dates()
        log.info("nodes loaded", nodes=self.nodes.sub_nodes, neighbours=self.nodes.managed_nodes)
        self.ready.set()

    def _judge_dates(self) -> None:
        """Return about certificates out of their time: a wrong clock, here or there, shows so."""
        now = time.time()
        expired = self.nodes.expired_certificates(now)
        self._metrics.certificate_expired.set(expired)
        if expired:
            log.warning(
                "node certificates are past their end and trusted all the same",
                certificates=expired,
            )
        premature = self.nodes.premature_certificates(now)
        self._metrics.certificate_not_yet_valid.set(premature)
        if premature:
            log.warning(
                "node certificates are not valid yet and trusted all the same",
                certificates=premature,
            )

    async def run(self, loaded: Callable[[], None]) -> None:
        """Try again, with growing delays, whenever a load has failed; runs for ever.

        Args:
            loaded: called after each attempt of its own that went well.
        """
        while True:
            await self._failed.wait()
            attempts = 0
            while self._failed.is_set():
                attempts += 1
                await trio.sleep(self._delays.after(attempts))
                if self._failed.is_set():
                    await self._try_again(loaded)

    async def _try_again(self, loaded: Callable[[], None]) -> None:
        try:
            await self.load()
        except NodesError:
            return
        loaded()
