"""Files that others change while relayd runs: read again when they have changed."""

from collections.abc import Callable
from pathlib import Path
from typing import Final, Generic, TypeVar

import trio

from relayd.system.files import open_regular
from relayd.system.shortage import words_of
from relayd.system.threads import in_thread
from relayd.telemetry.logs import get_logger

log = get_logger("api")

T = TypeVar("T")

#: Seconds between two looks at a file.
LOOK_S: Final = 1.0
#: A larger file is a mistake; 100,000 lines fit.
_MAX_BYTES: Final = 8 * 1024 * 1024

#: What distinguishes one version of a file from another: device, inode, time and size.
Version = tuple[int, int, int, int]


class WatchedFile(Generic[T]):
    """A small text file whose content is kept until it changes.

    A file that does not exist has the content of an empty one; one that cannot be read keeps the
    content that it had.

    Args:
        path: the file.
        parse: makes the content from the text.

    Attributes:
        content: what the file held when it was read last.
        version: of that; None while there is no file.
    """

    def __init__(self, path: Path, parse: Callable[[str], T]) -> None:
        self.path = path
        self._parse = parse
        self._looked_at: float | None = None
        self._looking = trio.Lock()
        self._trouble: str | None = None
        self.content = parse("")
        self.version: Version | None = None

    async def look(self, *, now: bool = False) -> None:
        """Read the file if it has changed, unless someone else looked a moment ago.

        Args:
            now: look in any case.
        """
        if not now and self._is_fresh():
            return
        async with self._looking:
            if now or self._is_old():
                await self._look()

    def _is_fresh(self) -> bool:
        """Return whether the content is that of a moment ago, or is being read again."""
        return not self._is_old() or (self._looked_at is not None and self._looking.locked())

    def _is_old(self) -> bool:
        return self._looked_at is None or trio.current_time() - self._looked_at >= LOOK_S

    async def _look(self) -> None:
        try:
            await in_thread(self._read)
        except FileNotFoundError:
            self.content, self.version = self._parse(""), None
            self._note("does not exist")
        except OSError as error:
            self._note(words_of(error))
        else:
            self._trouble = None
        self._looked_at = trio.current_time()

    def _read(self) -> None:
        found = self.path.stat()
        version = (found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size)
        if version == self.version:
            return
        with open_regular(self.path) as file:
            text = file.read(_MAX_BYTES).decode("utf-8", "surrogateescape")
        self.content, self.version = self._parse(text), version

    def _note(self, trouble: str) -> None:
        if trouble != self._trouble:
            effect = "nobody is admitted by it" if self.version is None else "nothing was changed"
            log.error("file cannot be read", file=str(self.path), detail=trouble, effect=effect)
        self._trouble = trouble
