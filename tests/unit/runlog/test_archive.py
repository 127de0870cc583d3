"""Unpacking of agents' archives and of hostile ones."""

import gzip
import io
import struct
import tracemalloc
import zipfile
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relayd.errors import Reason, Refused
from relayd.runlog.archive import unpack

TEXT = b"2026-03-01T12:00:05+00:00 R: @@Common@@...\r\n" * 50
CAP = 50 * 2**20


def zipped(*members: tuple[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """A zip archive of these members."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return file.getvalue()


def patched(data: bytes, signature: bytes, offset: int, form: str, value: int) -> bytes:
    """`data` with a number changed in each record that has this signature."""
    changed = bytearray(data)
    at = changed.find(signature)
    while at >= 0:
        struct.pack_into(form, changed, at + offset, value)
        at = changed.find(signature, at + 4)
    return bytes(changed)


def refusal(data: bytes, archive: str, cap: int = CAP) -> Refused:
    """The refusal that unpacking must give."""
    result = unpack(data, archive, cap)
    assert isinstance(result, Refused), result[:100]
    return result


@pytest.mark.parametrize(
    ("data", "archive"),
    [
        (TEXT, ""),
        (gzip.compress(TEXT, mtime=0), "gz"),
        (gzip.compress(TEXT, 0, mtime=0), "gz"),
        (zipped(("run.log", TEXT)), "zip"),
        (zipped(("run.log", TEXT), method=zipfile.ZIP_STORED), "zip"),
    ],
)
def test_content_is_unpacked(data: bytes, archive: str) -> None:
    """The packed content is returned byte for byte, up to exactly the maximum size."""
    assert unpack(data, archive, CAP) == TEXT
    assert unpack(data, archive, len(TEXT)) == TEXT
    assert refusal(data, archive, len(TEXT) - 1).reason is Reason.TOO_LARGE


def test_zip_written_to_a_pipe_is_unpacked() -> None:
    """A zip archive whose sizes follow its content is read by its directory."""

    class Pipe(io.RawIOBase):
        written = b""

        def writable(self) -> bool:
            return True

        def write(self, data: bytes) -> int:  # type: ignore[override]
            self.written += bytes(data)
            return len(data)

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("run.log", TEXT)
    assert unpack(pipe.written, "zip", CAP) == TEXT


@pytest.mark.fault("P2", "D.5.5")
def test_only_the_first_zip_member_counts() -> None:
    """The first of several members is read."""
    assert unpack(zipped(("a", TEXT), ("b", b"other"), ("c", b"")), "zip", CAP) == TEXT


@pytest.mark.fault("S12")
@pytest.mark.parametrize("archive", ["", "gz", "zip"])
def test_empty_file_is_refused_as_empty(archive: str) -> None:
    """A file without a byte is empty, and may be unfinished."""
    assert refusal(b"", archive) == Refused(Reason.EMPTY, "empty file", maybe_unfinished=True)


@pytest.mark.parametrize(
    ("data", "archive"), [(gzip.compress(b"", mtime=0), "gz"), (zipped(("run.log", b"")), "zip")]
)
def test_archive_of_nothing_is_empty(data: bytes, archive: str) -> None:
    """A complete archive of an empty file is empty permanently."""
    empty = refusal(data, archive)
    assert (empty.reason, empty.maybe_unfinished) == (Reason.EMPTY, False)


@pytest.mark.fault("P3")
@pytest.mark.parametrize("archive", ["gz", "zip"])
def test_every_cut_looks_unfinished(archive: str) -> None:
    """An archive truncated anywhere is refused as possibly unfinished."""
    data = gzip.compress(TEXT) if archive == "gz" else zipped(("run.log", TEXT))
    for size in range(1, len(data)):
        cut = refusal(data[:size], archive)
        assert (cut.reason, cut.maybe_unfinished) == (Reason.ARCHIVE, True), size


@pytest.mark.fault("P3")
@pytest.mark.parametrize("tail", [b"\0", b"junk", gzip.compress(b"second", mtime=0), b"\x1f\x8b"])
def test_data_after_a_gzip_member_are_refused(tail: bytes) -> None:
    """A second member or garbage after the first is a permanent fault."""
    refused = refusal(gzip.compress(TEXT) + tail, "gz")
    assert (refused.reason, refused.maybe_unfinished) == (Reason.ARCHIVE, False)


@pytest.mark.fault("P3")
@pytest.mark.parametrize("position", [-8, -5, -4, -1])
def test_wrong_gzip_trailer_is_refused(position: int) -> None:
    """A wrong checksum or length at the end of a gzip file is a permanent fault."""
    data = bytearray(gzip.compress(TEXT))
    data[position] ^= 1
    assert refusal(bytes(data), "gz").reason is Reason.ARCHIVE


@pytest.mark.fault("P4")
@pytest.mark.parametrize("archive", ["gz", "zip"])
def test_text_under_an_archive_name_is_refused(archive: str) -> None:
    """A file that is not the archive in its name is refused permanently."""
    plain = refusal(TEXT, archive)
    assert (plain.reason, plain.maybe_unfinished) == (Reason.ARCHIVE, False)


@pytest.mark.fault("P1", "P2")
@pytest.mark.parametrize("archive", ["gz", "zip"])
def test_bomb_is_stopped_at_the_cap(archive: str) -> None:
    """A quarter of a gibibyte of zeros is refused, and takes hardly any memory."""
    data = zeros(2**28, zlib.MAX_WBITS + 16 if archive == "gz" else -zlib.MAX_WBITS)
    if archive == "zip":
        # Declares a small size, because a large one would be refused at once.
        data = one_member(data, CAP)
    tracemalloc.start()
    refused = refusal(data, archive)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert refused.reason is (Reason.TOO_LARGE if archive == "gz" else Reason.ARCHIVE)
    assert peak < len(data) + 2**20


def zeros(size: int, wbits: int) -> bytes:
    """`size` zero bytes, deflated."""
    stream = zlib.compressobj(9, zlib.DEFLATED, wbits)
    piece = bytes(2**20)
    return b"".join(stream.compress(piece) for _ in range(size // 2**20)) + stream.flush()


def one_member(packed: bytes, size: int, checksum: int = 0) -> bytes:
    """A zip archive around a deflate stream, with a declared size."""
    sizes = struct.pack("<3L2H", checksum, len(packed), size, 1, 0)
    local = b"PK\x03\x04" + struct.pack("<5H", 20, 0, 8, 0, 0) + sizes + b"x"
    central = b"PK\x01\x02" + struct.pack("<6H", 20, 20, 0, 8, 0, 0) + sizes
    central += struct.pack("<3H2L", 0, 0, 0, 0, 0) + b"x"
    end = struct.pack("<4H2LH", 0, 0, 1, 1, len(central), len(local) + len(packed), 0)
    return local + packed + central + b"PK\x05\x06" + end


@pytest.mark.fault("P2", "D.5.5")
@pytest.mark.parametrize(
    ("data", "reason"),
    [
        pytest.param(zipped(), Reason.ARCHIVE, id="no member"),
        pytest.param(
            patched(zipped(("a", TEXT)), b"PK\x01\x02", 8, "<H", 1), Reason.ARCHIVE, id="encrypted"
        ),
        pytest.param(
            patched(zipped(("a", TEXT)), b"PK\x03\x04", 6, "<H", 1),
            Reason.ARCHIVE,
            id="encrypted by its own header",
        ),
        pytest.param(
            patched(zipped(("a", TEXT)), b"PK\x01\x02", 24, "<L", 2**31),
            Reason.TOO_LARGE,
            id="claims to be huge",
        ),
        pytest.param(
            patched(zipped(("a", TEXT)), b"PK\x01\x02", 24, "<L", 10),
            Reason.ARCHIVE,
            id="claims to be small",
        ),
        pytest.param(
            patched(zipped(("a", TEXT)), b"PK\x01\x02", 24, "<L", len(TEXT) + 1),
            Reason.ARCHIVE,
            id="claims one byte more",
        ),
        pytest.param(
            patched(zipped(("a", TEXT)), b"PK\x01\x02", 16, "<L", 7),
            Reason.ARCHIVE,
            id="wrong checksum",
        ),
        pytest.param(
            patched(zipped(("a", TEXT)), b"PK\x01\x02", 20, "<L", 2**31),
            Reason.ARCHIVE,
            id="reaches beyond the directory",
        ),
        pytest.param(
            patched(zipped(("a", TEXT), ("b", TEXT)), b"PK\x01\x02", 42, "<L", 0),
            Reason.ARCHIVE,
            id="two names for one member",
        ),
        pytest.param(
            zipped(("a", TEXT), method=zipfile.ZIP_BZIP2), Reason.ARCHIVE, id="other method"
        ),
        pytest.param(b"MZ" + zipped(("a", TEXT)), Reason.ARCHIVE, id="garbage before"),
    ],
)
def test_dishonest_zip_is_refused(data: bytes, reason: Reason) -> None:
    """A zip archive that contradicts its own declarations is refused permanently."""
    refused = refusal(data, "zip")
    assert (refused.reason, refused.maybe_unfinished) == (reason, False)


@pytest.mark.fault("P2", "D.5.5")
def test_zip_member_that_reaches_into_the_directory_is_refused() -> None:
    """A member never includes a byte of the directory, even if its checksum does."""
    data = zipped(("a", TEXT), method=zipfile.ZIP_STORED)
    more = TEXT + b"PK\x01\x02"
    for offset, value in ((16, zlib.crc32(more)), (20, len(more)), (24, len(more))):
        data = patched(data, b"PK\x01\x02", offset, "<L", value)
    assert "overlapping" in refusal(data, "zip").detail


@pytest.mark.fault("P2", "D.5.5")
def test_data_after_a_zip_archive_are_refused() -> None:
    """A zip archive followed by other data is refused."""
    assert refusal(zipped(("a", TEXT)) + b"tail", "zip").reason is Reason.ARCHIVE


@settings(max_examples=300)
@given(
    st.sampled_from(["gz", "zip"]),
    st.binary(max_size=40),
    st.lists(st.tuples(st.integers(0, 2000), st.binary(max_size=5)), max_size=4),
)
def test_no_archive_raises(archive: str, content: bytes, edits: list[tuple[int, bytes]]) -> None:
    """A damaged archive gives content or a refusal, and never more than the maximum size."""
    whole = gzip.compress(content) if archive == "gz" else zipped(("a", content), ("b", content))
    data = bytearray(whole)
    for position, piece in edits:
        at = position % (len(data) + 1)
        data[at : at + len(piece)] = piece
    result = unpack(bytes(data), archive, 60)
    assert isinstance(result, Refused) or 0 < len(result) <= 60


@given(st.sampled_from(["gz", "zip"]), st.binary(max_size=100))
def test_no_bytes_raise(archive: str, data: bytes) -> None:
    """Arbitrary bytes give content or a refusal, also after an archive's magic number."""
    for head in (b"", b"\x1f\x8b\x08", b"PK\x03\x04", b"PK\x05\x06"):
        assert isinstance(unpack(head + data, archive, CAP), bytes | Refused)


@pytest.mark.parametrize("filler", [b"PK\x05\x06", b"PK\x05\x06" + bytes(18)])
def test_many_end_records_are_one_search(filler: bytes) -> None:
    """A file full of end records that do not match its length is no archive."""
    assert refusal(filler * 50_000 + b"x", "zip").reason is Reason.ARCHIVE
