"""Database URLs from the field."""

from collections.abc import Iterator

import pytest
import trio
import trio_asyncio

from relayd.config.database_url import connect_arguments
from relayd.config.main_conf import load_settings
from relayd.outputs.postgres.connection import Patience, connect
from relayd.outputs.postgres.faults import ConnectError
from tests.support.libpq import Surface, open_surface
from tests.support.project import VECTORS

FIELD = VECTORS / "field"
URLS = ("jdbc-ssl-true/url", "tls-files-that-are-not-there/urls")

pytestmark = pytest.mark.skipif(not FIELD.is_dir(), reason="no reference data (RELAYD_VECTORS)")


@pytest.fixture(scope="module")
def surface() -> Iterator[Surface]:
    with open_surface() as found:
        yield found


@pytest.mark.fault("F8", "F10")
async def test_urls_connect_with_tls(surface: Surface) -> None:
    """Files that are not there are passed over where libpq passes them over; others are named."""
    lines = [line for name in URLS for line in (FIELD / name).read_text().split()]
    answers: list[object] = []
    async with trio_asyncio.open_loop():
        for line in lines:
            url = line.replace("rudder@", "trusted@").replace(":5432", f":{surface.places['port']}")
            try:
                connection = await trio_asyncio.aio_as_trio(connect)(
                    connect_arguments(url, None), Patience()
                )
            except ConnectError as error:
                answers.append(str(error).rpartition(": ")[0].partition(": ")[2])
                continue
            answers.append(
                await trio_asyncio.aio_as_trio(connection.fetchval)(
                    "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
                )
            )
            await trio_asyncio.aio_as_trio(connection.close)()
        await trio.lowlevel.checkpoint()
    assert answers == [True, True, True, True, "the server's certificate"]


@pytest.mark.fault("F13")
def test_an_empty_password_is_accepted() -> None:
    """The configuration with an empty database password loads."""
    settings, _ = load_settings(FIELD / "empty-password")
    assert settings.output.database.password is not None
