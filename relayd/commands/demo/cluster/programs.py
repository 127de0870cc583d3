"""The system's programs that a cluster consists of."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from relayd.errors import StartError

_POSTGRES: Final = Path("/usr/lib/postgresql")
_PATH: Final = f"{os.defpath}:/usr/sbin:/sbin"
_OTHER_PATRONI: Final = "RELAYD_PATRONI"


@dataclass(frozen=True, slots=True)
class Programs:
    """Paths of the programs.

    Attributes:
        etcd: the store of Patroni's leader key.
        patroni: starts PostgreSQL and decides who is the primary.
        haproxy: forwards connections to the primary.
        postgres: the `bin` directory of PostgreSQL.
    """

    etcd: Path
    patroni: Path
    haproxy: Path
    postgres: Path


def find_programs() -> Programs:
    """Return the installed programs.

    The environment variable RELAYD_PATRONI names another Patroni than the one of the distribution.

    Raises:
        StartError: some are missing; the text is the command that installs them.
    """
    packages = {"etcd": "etcd-server", "patroni": "patroni", "haproxy": "haproxy"}
    found = {name: shutil.which(name, path=_PATH) for name in packages}
    found["patroni"] = os.environ.get(_OTHER_PATRONI) or found["patroni"]
    missing = [packages[name] for name, path in found.items() if path is None]
    postgres = _newest_postgres()
    if postgres is None:
        missing.append("postgresql")
    if missing or postgres is None:
        raise StartError(f"a cluster needs programs of the system: apt install {' '.join(missing)}")
    paths = {name: Path(path) for name, path in found.items() if path is not None}
    return Programs(**paths, postgres=postgres)


def _newest_postgres() -> Path | None:
    found = {
        int(path.parents[1].name): path.parent for path in _POSTGRES.glob("[0-9]*/bin/postgres")
    }
    return found[max(found)] if found else None
