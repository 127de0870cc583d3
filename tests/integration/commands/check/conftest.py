"""The installation that the checks examine."""

from collections.abc import Iterator

import pytest

from tests.support import postgres
from tests.support.checked import open_site
from tests.support.daemon import Site


@pytest.fixture
def site(database: postgres.Database) -> Iterator[Site]:
    """Yield a root server without faults, with a database of its own."""
    with open_site(database.rudder) as site:
        yield site
