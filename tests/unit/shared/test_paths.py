"""Paths and ids in requests: which of them are valid."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.shared.paths import PathError, check_ids, directory_of, split_path


@pytest.mark.parametrize(
    ("raw", "names"),
    [
        (b"a", ("a",)),
        (b"a/b.c/d", ("a", "b.c", "d")),
        (b"..foo/foo../...", ("..foo", "foo..", "...")),
        (b"%41%2d%2E", ("A-.",)),
        ("é".encode(), ("é",)),
        (b"%c3%a9", ("é",)),
        (b"%252e%252e", ("%2e%2e",)),
        (b"a+b~c:d", ("a+b~c:d",)),
        pytest.param(b"a//b", ("a", "b"), marks=pytest.mark.fault("F59")),
        pytest.param(b"/etc", ("etc",), marks=pytest.mark.fault("F59")),
        pytest.param(b"./a/./%2e//%2Eb", ("a", ".b"), marks=pytest.mark.fault("F59")),
        pytest.param(b"file%20with%20space", ("file with space",), marks=pytest.mark.history(43)),
    ],
)
def test_path_is_decoded_once(raw: bytes, names: tuple[str, ...]) -> None:
    """Names are split first and then decoded, once; dots within a name are allowed."""
    assert split_path(raw) == names


@pytest.mark.fault("A6")
@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"/",
        b"a/",
        b"a//",
        b"a/.",
        b"a/%2e",
        b"./",
        b"//",
        b".",
        b"..",
        b"a/..",
        b"a//../b",
        b"./../b",
        b"a/%2e/..",
        b"%2e%2e/b",
        b".%2E",
        b"a%2fb",
        b"a%5Cb",
        b"a\\b",
        b"a%00",
        b"a%0a",
        b"a%7f",
        b"%",
        b"%4",
        b"%zz",
        b"%+1",
        b"%c0%ae",
        b"%ff",
        b"%ed%a0%80",
        b"a" * 256,
        b"a/" * 2500 + b"a",
    ],
)
def test_path_that_names_no_file_is_refused(raw: bytes) -> None:
    """Traversal, separators, control characters, bad escapes and overlong names are rejected."""
    with pytest.raises(PathError):
        split_path(raw)


@given(st.binary(max_size=60))
def test_what_comes_out_stays_below(raw: bytes) -> None:
    """A path that is accepted has only plain names, whatever is sent."""
    try:
        names = split_path(raw)
    except PathError:
        return
    assert names
    for name in names:
        assert name not in ("", ".", "..")
        assert not set(name) & {"/", "\\", "\0", "\n"}
        assert len(name.encode()) <= 255


@pytest.mark.parametrize(
    "raw",
    [
        b"t/s/f",
        b"37817c4d-fbf7-4850-a985-50021f4e8f41/root/application.properties",
        pytest.param(b"t/s/a_b-C.9", marks=pytest.mark.history(43)),
        b"t/s/..f",
        b"t/s/metadata",
        b"t/s/x.metadata.1",
        b"t/s/%66",
        pytest.param(b"t/s/f/", marks=pytest.mark.fault("F59")),
    ],
)
def test_ids_are_accepted(raw: bytes) -> None:
    """An id may have letters, digits, dashes, underscores and dots."""
    assert len(check_ids(raw)) == 3


@pytest.mark.fault("A8")
@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"./s/f", marks=pytest.mark.history(40)),
        pytest.param(b"../s/f", marks=pytest.mark.history(40)),
        pytest.param(b"t/./f", marks=pytest.mark.history(40)),
        pytest.param(b"t/../f", marks=pytest.mark.history(40)),
        pytest.param(b"t/s/.", marks=pytest.mark.history(40)),
        pytest.param(b"t/s/..", marks=pytest.mark.history(40)),
        pytest.param(b"t/s/%2e%2e", marks=pytest.mark.history(40)),
        pytest.param(b"t/s/x.metadata", marks=pytest.mark.history(39)),
        pytest.param(b"t/s/x.MetaData", marks=pytest.mark.history(39)),
        pytest.param(b"t/s/.METADATA", marks=pytest.mark.history(39)),
        pytest.param(b"t/s/x%2emetadata", marks=pytest.mark.history(39)),
        b"t/s/file%0a",
        b"t/s/fi%20le",
        b"t/s/" + b"f" * 300,
        b"t/s/" + b"f" * 247,
        "t/s/\u0664".encode(),
        b"t/s/%d9%a4",
        b"t/s/%c3%a9",
        b"t/s/a:b",
        b"t/s/a%00b",
        b"t/s",
        b"t/s/f/g",
        b"t//f",
        b"t//s/f",
        b"/t/s/f",
        b"t/s/f//",
        b"t/s/f/.",
        b"t/s/",
        b"./t/s/f",
        b"t%2fs/f/g",
    ],
)
def test_ids_are_refused(raw: bytes) -> None:
    """An id that leads elsewhere, collides with other metadata, or has other characters is bad."""
    with pytest.raises(PathError):
        check_ids(raw)


@pytest.mark.parametrize("raw", [b"", b".", b"..", b"a/b", b"%2e%2e", b"a%2fb", b"a%00", b"/"])
def test_directory_that_is_not_an_entry_of_its_root(raw: bytes) -> None:
    """Only a single name leads to a directory in a root."""
    with pytest.raises(PathError):
        directory_of(Path("/root"), raw)
    assert directory_of(Path("/root"), b"%61b") == Path("/root/ab")
