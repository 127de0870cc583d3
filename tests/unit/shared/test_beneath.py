"""Opening files below a directory: links within it are followed, links out of it are not."""

import os
import socket
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from relayd.shared import beneath
from relayd.shared.beneath import make_directories, open_beneath, open_regular, walk_beneath

Open = Callable[[Path, Sequence[str], int], int]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Make a directory with files and links, and a secret next to it."""
    root = tmp_path / "root"
    (root / "sub" / "deep").mkdir(parents=True)
    (root / "sub" / "file").write_text("inside")
    (tmp_path / "secret").write_text("outside")
    (tmp_path / "rootsecret").write_text("outside")
    links = {
        "near": "sub/file",
        "up": "sub/deep/../file",
        "to-sub": "sub",
        "absolute": str(root / "sub" / "file"),
        "out": "../secret",
        "out-sideways": "../rootsecret",
        "out-absolute": "/etc/passwd",
        "out-and-in": f"../{root.name}/sub/file",
        "loop": "loop",
        "magic": "/proc/self/root/etc/passwd",
        "broken": "nothing",
    }
    for name, target in links.items():
        (root / name).symlink_to(target)
    os.mkfifo(root / "fifo")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(root / "sock"))
    return root


def content(descriptor: int) -> bytes:
    """Return the content of a descriptor and close it."""
    with open(descriptor, "rb") as file:
        return file.read()


both = pytest.mark.parametrize("opener", [open_beneath, walk_beneath])


@both
@pytest.mark.parametrize("path", ["sub/file", "near", "up", "to-sub/file", "absolute"])
def test_links_inside_are_followed(root: Path, opener: Open, path: str) -> None:
    """A file below the root is reached by name and by any link that stays below."""
    assert content(opener(root, path.split("/"), os.O_RDONLY)) == b"inside"


@both
@pytest.mark.fault("A7", "D.3.2")
@pytest.mark.parametrize("path", ["out", "out-sideways", "out-absolute", "magic", "loop", "broken"])
def test_links_out_are_not_followed(root: Path, opener: Open, path: str) -> None:
    """Nothing outside of the root is opened, wherever a link points."""
    with pytest.raises(OSError):  # noqa: PT011 - which one depends on the way it is found out
        opener(root, (path,), os.O_RDONLY)


@pytest.mark.fault("A7", "D.3.2")
@pytest.mark.parametrize(
    "path", ["out", "magic", "loop", "broken", "sub", "fifo", "sock", "nothing", "near/x"]
)
def test_only_regular_files_are_there(root: Path, path: str) -> None:
    """Directories, FIFOs, sockets and links out count as missing; a FIFO does not block."""
    with pytest.raises(FileNotFoundError):
        open_regular(root, path.split("/"))


def test_a_system_without_openat2(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the system call, the same files are opened, and no others."""

    def absent(*_arguments: object) -> int:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(beneath, "openat2", absent)
    assert content(open_regular(root, ("near",))) == b"inside"
    for path in ("out", "out-absolute", "magic"):
        with pytest.raises(FileNotFoundError):
            open_regular(root, (path,))


def test_no_descriptor_is_left(root: Path) -> None:
    """An attempt leaves no descriptor open, whatever its result."""
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    for path in ("sub/file", "out", "fifo", "sub", "nothing"):
        for opener in (open_beneath, walk_beneath):
            try:
                os.close(opener(root, path.split("/"), os.O_RDONLY | os.O_NONBLOCK))
            except OSError:
                continue
    for path in ("fifo", "sub", "out"):
        with pytest.raises(FileNotFoundError):
            open_regular(root, (path,))
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


def test_directories_are_made_for_the_service_only(tmp_path: Path) -> None:
    """Missing directories are made, inaccessible to others; existing ones are used."""
    for _ in range(2):
        os.close(make_directories(tmp_path / "a", ("b", "c")))
    made = [tmp_path / "a", tmp_path / "a" / "b", tmp_path / "a" / "b" / "c"]
    assert [path.stat().st_mode & 0o027 for path in made] == [0, 0, 0]


@pytest.mark.fault("A7", "D.3.2")
def test_directories_are_not_made_outside(tmp_path: Path) -> None:
    """No directory is made behind a link out of the root."""
    (tmp_path / "root").mkdir()
    (tmp_path / "else").mkdir()
    (tmp_path / "root" / "t").symlink_to("../else")
    with pytest.raises(OSError):  # noqa: PT011
        make_directories(tmp_path / "root", ("t", "files"))
    assert list((tmp_path / "else").iterdir()) == []
