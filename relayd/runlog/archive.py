"""Unpacking run logs: how they were stored, undone within a bound of memory.

gzip is RFC 1952, deflate RFC 1951; zip is PKWARE's APPNOTE, of which only what an agent needs is
read: stored or deflated members, one disk, no ZIP64, no encryption.
"""

import struct
import zlib
from typing import Final, NamedTuple

from relayd.errors import Reason, Refused

#: No deflate stream grows by more than this (zlib.net, "Technical Details").
_MAX_RATIO: Final = 1032
_PIECE: Final = 65_536

_GZIP: Final = 31
_RAW_DEFLATE: Final = -15

_END: Final = struct.Struct("<4s4H2LH")
_CENTRAL: Final = struct.Struct("<4s6H3L5H2L")
_LOCAL: Final = struct.Struct("<4s5H3L2H")
_END_SIGNATURE: Final = b"PK\x05\x06"
_LOCAL_SIGNATURE: Final = b"PK\x03\x04"
_STORED: Final = 0
_DEFLATED: Final = 8
#: Flags: encrypted, strongly encrypted, with an encrypted directory.
_ENCRYPTED: Final = 0x2041


class _Member(NamedTuple):
    """What a zip's central directory says of one file; sizes and offset in bytes."""

    flags: int
    method: int
    checksum: int
    packed: int
    size: int
    offset: int


class _UnreadableError(Exception):
    """The archive is not accepted, for the reason in the text."""

    def __init__(self, detail: str, *, unfinished: bool = False) -> None:
        super().__init__(detail)
        self.unfinished = unfinished


class _TooLargeError(Exception):
    pass


def unpack(data: bytes, archive: str, max_size: int) -> bytes | Refused:
    """Return what a run-log file holds.

    Of a gzip file or a zip archive that is its first member. Anything behind a gzip member is
    refused, another member included; other members of a zip are ignored.

    Args:
        data: the file.
        archive: "gz", "zip" or "" (stored as it is).
        max_size: cap on the size of the result in bytes. It holds while unpacking: whatever
            the archive claims, no more memory than that is used.

    Returns:
        At least one byte; or `Refused` with EMPTY, TOO_LARGE or ARCHIVE.
    """
    if not data:
        return Refused(Reason.EMPTY, "empty file", maybe_unfinished=True)
    try:
        content = _read(data, archive, max_size)
    except _TooLargeError:
        return Refused(Reason.TOO_LARGE, f"more than {max_size} bytes when unpacked")
    except _UnreadableError as error:
        return Refused(Reason.ARCHIVE, str(error), maybe_unfinished=error.unfinished)
    return content or Refused(Reason.EMPTY, "empty archive member")


def _read(data: bytes, archive: str, max_size: int) -> bytes:
    match archive:
        case "gz":
            return _inflate(data, _GZIP, max_size)
        case "zip":
            return _first_member(data, max_size)
        case "":
            if len(data) > max_size:
                raise _TooLargeError
            return data
        case _:
            raise ValueError(f"unknown archive type {archive!r}")


def _inflate(data: bytes, wbits: int, max_size: int) -> bytes:
    """Return the one stream that `data` is, neither cut short nor followed by anything."""
    if len(data) * _MAX_RATIO > max_size:
        # It might grow beyond the cap: measured first, in pieces that are thrown away, so that
        # a bomb never takes the memory that an honest run log may.
        _measure(data, wbits, max_size)
    stream = zlib.decompressobj(wbits)
    try:
        content = stream.decompress(data, max_size + 1)
    except zlib.error as error:
        raise _UnreadableError(f"cannot be unpacked: {error}") from error
    if len(content) > max_size:
        raise _TooLargeError
    if not stream.eof:
        raise _UnreadableError("ends before its compressed data do", unfinished=True)
    if stream.unused_data:
        raise _UnreadableError(f"{len(stream.unused_data)} bytes behind its compressed data")
    return content


def _measure(data: bytes, wbits: int, max_size: int) -> None:
    stream = zlib.decompressobj(wbits)
    view = memoryview(data)
    size = 0
    try:
        for start in range(0, len(view), _PIECE):
            piece: bytes | memoryview = view[start : start + _PIECE]
            while piece and not stream.eof:
                size += len(stream.decompress(piece, _PIECE))
                piece = stream.unconsumed_tail
                if size > max_size:
                    raise _TooLargeError
    except zlib.error as error:
        raise _UnreadableError(f"cannot be unpacked: {error}") from error


def _first_member(data: bytes, max_size: int) -> bytes:
    end_record, members = _central_directory(data)
    if not members:
        raise _UnreadableError("zip without a member")
    member = members[0]
    start = _content_start(data, member)
    end = start + member.packed
    if end > end_record or any(member.offset <= other.offset < end for other in members[1:]):
        raise _UnreadableError("overlapping zip members")
    if member.size > max_size:
        raise _TooLargeError
    content = _extract(data[start:end], member)
    if len(content) != member.size or zlib.crc32(content) != member.checksum:
        raise _UnreadableError("zip member has not the size or checksum it claims")
    return content


def _extract(packed: bytes, member: _Member) -> bytes:
    if member.method == _STORED:
        return packed
    if member.method != _DEFLATED:
        raise _UnreadableError(f"zip compression method {member.method}")
    try:
        return _inflate(packed, _RAW_DEFLATE, member.size)
    except _TooLargeError:
        raise _UnreadableError("zip member is larger than it claims") from None
    except _UnreadableError as error:
        # The archive is whole, so more of it will not come.
        raise _UnreadableError(f"zip member {error}") from error


def _central_directory(data: bytes) -> tuple[int, list[_Member]]:
    """Return where the central directory starts (nothing of a member is behind that) and its members."""
    end_record = _end_record(data)
    _, _, _, _, count, length, start, _ = _END.unpack_from(data, end_record)
    if start + length > end_record:
        raise _UnreadableError("zip directory beyond the end of the archive")
    members = []
    position = start
    for _ in range(count):
        if position + _CENTRAL.size > start + length:
            raise _UnreadableError("zip directory cut short")
        fields = _CENTRAL.unpack_from(data, position)
        if fields[0] != b"PK\x01\x02":
            raise _UnreadableError("broken zip directory")
        flags, method, checksum, packed, size, offset = (fields[i] for i in (3, 4, 7, 8, 9, 16))
        members.append(_Member(flags, method, checksum, packed, size, offset))
        position += _CENTRAL.size + sum(fields[10:13])
    return start, members


def _end_record(data: bytes) -> int:
    """Position of the record that ends the archive; its comment ends the file."""
    end = len(data) - _END.size + len(_END_SIGNATURE)
    lowest = max(0, len(data) - _END.size - 0xFFFF)
    while end > 0 and (position := data.rfind(_END_SIGNATURE, lowest, end)) >= 0:
        comment = _END.unpack_from(data, position)[-1]
        if position + _END.size + comment == len(data):
            return position
        end = position + len(_END_SIGNATURE) - 1
    started = data.startswith(_LOCAL_SIGNATURE[: len(data)])
    raise _UnreadableError(
        "zip without its directory" if started else "not a zip", unfinished=started
    )


def _content_start(data: bytes, member: _Member) -> int:
    if member.offset + _LOCAL.size > len(data):
        raise _UnreadableError("zip member beyond the end of the archive")
    fields = _LOCAL.unpack_from(data, member.offset)
    if fields[0] != _LOCAL_SIGNATURE or fields[3] != member.method:
        raise _UnreadableError("zip member is not where or what the directory says")
    if (fields[2] | member.flags) & _ENCRYPTED:
        raise _UnreadableError("encrypted zip")
    start: int = member.offset + _LOCAL.size + fields[9] + fields[10]
    return start
