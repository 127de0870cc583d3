"""Sites with a web server in front: each of the two, and relayd's own."""

from pathlib import Path
from typing import cast

import pytest

from tests.support.daemon import Site
from tests.support.webserver import Kind, Web, find_program, write_web


@pytest.fixture(params=["apache", "nginx", "door"])
def kind(request: pytest.FixtureRequest) -> Kind:
    """Return the web server in use; a test without it is skipped."""
    name = cast("Kind", request.param)
    find_program(name)
    return name


@pytest.fixture
def site_directory(place: Path) -> Path:
    """Return a directory that the web server's own account can enter."""
    return place


@pytest.fixture
def web(kind: Kind, site: Site) -> Web:
    """Return a web server in front of it, not started."""
    return write_web(Web(kind, site.root, site.port, site.nodes), site)
