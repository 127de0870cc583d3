"""Runs the parts, each for a limited time, and writes the archive."""

import io
import os
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple

from relayd.commands.support.parts import MissingError, Part
from relayd.errors import StartError
from relayd.system.printable import printable
from relayd.system.shortage import words_of

MANIFEST: Final = "MANIFEST.txt"
#: Seconds for one part: a file system that hangs must not hang the rest.
PART_S: Final = 75.0
#: Characters of one part in the archive.
MOST_CHARS: Final = 4 * 2**20


class Result(NamedTuple):
    """What became of one part.

    Attributes:
        name: of its file.
        text: "" if it is missing.
        missing: why it is; "" if it is not.
        note: what was cut off, for example.
        seconds: that it took.
    """

    name: str
    text: str = ""
    missing: str = ""
    note: str = ""
    seconds: float = 0.0


def run_part(name: str, part: Part, mask: Callable[[str], str], limit: float = PART_S) -> Result:
    """Run a part, and never raise: what goes wrong becomes its result."""
    begun = time.monotonic()
    results: list[Result] = []

    def work() -> None:
        try:
            text, note = _bounded(part())
            results.append(Result(name, mask(text), note=note))
        except MissingError as error:
            results.append(Result(name, missing=mask(printable(str(error), 500))))
        except Exception as error:  # a fault in one part must not cost the others
            text = printable(f"{type(error).__name__}: {error}", 500)
            results.append(Result(name, missing=mask(text)))

    # Not waited for at the end: it may hang in the kernel.
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(limit)
    took = time.monotonic() - begun
    if not results:
        return Result(name, missing=f"not finished within {limit:g} s", seconds=took)
    return results[0]._replace(seconds=took)


def _bounded(text: str) -> tuple[str, str]:
    """Return the end of a text that is too long, from the begin of a line on, and a note."""
    if len(text) <= MOST_CHARS:
        return text, ""
    rest = text[-MOST_CHARS:].partition("\n")[2]
    return rest, f"the last {len(rest):,} of {len(text):,} characters"


class Archive:
    """An archive that is being written; every file in it has mode 0600."""

    def __init__(self, tar: tarfile.TarFile, directory: str) -> None:
        self._tar = tar
        self._directory = directory

    def add(self, name: str, text: str) -> None:
        """Add a file."""
        data = text.encode("utf-8", "backslashreplace")
        member = tarfile.TarInfo(f"{self._directory}/{name}")
        member.size, member.mode, member.mtime = len(data), 0o600, int(time.time())
        self._tar.addfile(member, io.BytesIO(data))


@contextmanager
def open_archive(path: Path, directory: str) -> Iterator[Archive]:
    """Make an archive that only this user can read; remove it if the block raises.

    Args:
        path: of the archive; nothing may exist there.
        directory: name of the directory in it.

    Raises:
        StartError: it cannot be written.
    """
    try:
        number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise StartError(f"{path} exists; choose another file with -o") from None
    except OSError as error:
        raise StartError(f"{path} cannot be written: {words_of(error)}") from error
    try:
        with os.fdopen(number, "wb") as file, tarfile.open(fileobj=file, mode="w:gz") as tar:
            yield Archive(tar, directory)
    except BaseException as error:
        with suppress(OSError):
            path.unlink()
        if isinstance(error, OSError):
            raise StartError(f"{path} cannot be written: {words_of(error)}") from error
        raise
