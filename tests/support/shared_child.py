"""The store of shared files in a process of its own, to be traced and killed.

`python -m tests.support.shared_child replace|expire|sweep DIRECTORY`. It imports little, as it is
started very often.
"""

import sys
from collections.abc import Callable
from pathlib import Path

from relayd.shared.expiry import sweep
from relayd.shared.store import Store
from relayd.shared.usage import Quota, Usage

SOURCE, TARGET = "source", "target"
#: Next to the store: the metadata of the new content, written by the parent process.
METADATA = "new.metadata"
NEW = b"the new content, a little longer"


def store_pair(root: Path, content: bytes, metadata: bytes) -> None:
    """Store a pair."""
    store = Store(root / "files")
    stage = store.open_stage(TARGET, "f", "sha512")
    try:
        stage.write(content)
        store.put(stage, SOURCE, metadata)
    finally:
        stage.close()


def replace(root: Path) -> None:
    """Replace the pair that exists."""
    store_pair(root, NEW, (root / METADATA).read_bytes())


def expire(root: Path) -> None:
    """Remove the existing pair, whatever its time."""
    sweep(Store(root / "files"), 5_000_000_000)


def sweep_twice(root: Path) -> None:
    """Find nothing that has expired, twice."""
    store, usage = Store(root / "files"), Usage(Quota())
    for _ in range(2):
        sweep(store, 1_000_000_000, usage)
        (root / "swept").touch()


SCENARIOS: dict[str, Callable[[Path], None]] = {
    "replace": replace,
    "expire": expire,
    "sweep": sweep_twice,
}

if __name__ == "__main__":
    SCENARIOS[sys.argv[1]](Path(sys.argv[2]))
