"""The file with the node records, which lets them survive a restart.

It holds history only: without it, or with a broken one, the records start empty.
"""

import math
import os
import sys
import zlib
from pathlib import Path
from typing import Final

import msgspec

from relayd.errors import UNDECODABLE
from relayd.system.files import open_regular, write_all

NAME: Final = "nodes.records"
#: Changed with the format, so that another version's file is recognized.
_MAGIC: Final = b"relayd node records 1\n"
_CHECKSUM_BYTES: Final = 4
#: Records of 500,000 nodes; a larger file is not read.
MAX_BYTES: Final = 128 * 1024 * 1024
_MODE: Final = 0o640


class Saved(msgspec.Struct, frozen=True):
    """The records as they are in the file.

    Attributes:
        byte_order: of the machine that wrote them: "little" or "big".
        since: Unix time since which they go back.
        hour_ends: Unix time at which the hour of the counts ends.
        reasons: names of the reasons, in the order of their codes.
        ids: node ids, separated by newlines.
        rows: row of each node, as 32-bit numbers.
        columns: see `relayd.telemetry.nodes.columns.Columns.dump`.
    """

    since: float
    hour_ends: float
    reasons: list[str]
    ids: str
    rows: bytes
    columns: dict[str, bytes]
    byte_order: str = sys.byteorder


def write_saved(directory: Path, saved: Saved) -> None:
    """Replace the file in a directory; blocks.

    A crash of the machine may leave a broken file: its loss is not worth waiting for the disk.

    Raises:
        OSError: it cannot be written; the previous one is still there.
    """
    body = msgspec.msgpack.encode(saved)
    temporary = directory / f".{NAME}.new"
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    fd = os.open(temporary, flags, _MODE)
    try:
        write_all(fd, _MAGIC + zlib.crc32(body).to_bytes(_CHECKSUM_BYTES, "big"))
        write_all(fd, body)
    finally:
        os.close(fd)
    temporary.replace(directory / NAME)


def read_saved(directory: Path) -> Saved | None:
    """Return what the file in a directory holds, None if there is none; blocks.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not a file of records, or of another version, or damaged.
    """
    try:
        with open_regular(directory / NAME) as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        return None
    if len(data) > MAX_BYTES:
        raise ValueError(f"larger than {MAX_BYTES} bytes")
    start = len(_MAGIC) + _CHECKSUM_BYTES
    if not data.startswith(_MAGIC):
        raise ValueError("not node records of this version")
    body = memoryview(data)[start:]
    if zlib.crc32(body).to_bytes(_CHECKSUM_BYTES, "big") != data[len(_MAGIC) : start]:
        raise ValueError("damaged")
    try:
        saved = msgspec.msgpack.decode(body, type=Saved)
    except UNDECODABLE as error:
        raise ValueError(str(error)) from error
    if not (math.isfinite(saved.since) and math.isfinite(saved.hour_ends)):
        raise ValueError("a time that is no number")
    if saved.byte_order != sys.byteorder:
        raise ValueError("from a machine of another byte order")
    return saved
