"""Sites with a web server in front, once with each of the two."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from tests.support.daemon import Site, make_site
from tests.support.ledger import fleet
from tests.support.postgres import Database
from tests.support.webserver import Kind, Web, find_program, write_web


@pytest.fixture(params=["apache", "nginx"])
def kind(request: pytest.FixtureRequest) -> Kind:
    """The web server in use; a test without it is skipped."""
    name = cast("Kind", request.param)
    find_program(name)
    return name


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that the web server's own account can enter, unlike pytest's."""
    with tempfile.TemporaryDirectory(prefix="relayd-web-") as directory:
        path = Path(directory)
        path.chmod(0o755)
        yield path


@pytest.fixture
def site(place: Path, database: Database) -> Site:
    """A root server with three nodes."""
    return make_site(place, database.rudder, fleet())


@pytest.fixture
def web(kind: Kind, site: Site) -> Web:
    """A web server in front of it, not started."""
    return write_web(Web(kind, site.root, site.port, site.nodes))
