"""The root server that most of these tests run relayd on."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

from tests.support.daemon import NOWHERE, Site, make_site
from tests.support.ledger import Ledger, fleet


@pytest.fixture
def site_directory(tmp_path: Path) -> Path:
    """Return the directory that holds everything of the site."""
    return tmp_path


@pytest.fixture
def site(request: pytest.FixtureRequest, site_directory: Path) -> Site:
    """Return a root server with an empty spool, as the marker `site` of the test describes it.

    It has three nodes and a database of its own, unless the marker says otherwise.
    """
    marker = request.node.get_closest_marker("site")
    return _make_site(request, site_directory, **(marker.kwargs if marker else {}))


def _make_site(
    request: pytest.FixtureRequest,
    directory: Path,
    *,
    nodes: Iterable[str] | None = None,
    extra: Mapping[str, str] | None = None,
    database: bool = True,
) -> Site:
    connection = request.getfixturevalue("database").rudder if database else NOWHERE
    return make_site(directory, connection, fleet() if nodes is None else fleet(nodes), extra)


@pytest.fixture
def ledger(site: Site) -> Ledger:
    """Return what was sent to this site."""
    return Ledger(site)
