"""Uploads conform to their description, with generated requests over TLS."""

import json
import math
import threading
from base64 import b64encode
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
import trio
from hypothesis import HealthCheck, settings
from schemathesis.checks import CheckFunction
from schemathesis.specs.openapi import checks

from tests.support import front_door
from tests.support.curl import USER
from tests.support.ledger import fleet
from tests.support.ports import free_port
from tests.support.project import DOCS
from tests.support.webserver import PASSWORD, Web, write_web

SCHEMA = schemathesis.openapi.from_dict(json.loads((DOCS / "openapi-door.json").read_text()))
CHECKS: list[CheckFunction] = [
    checks.status_code_conformance,
    checks.content_type_conformance,
]
KNOWN = {"Authorization": f"Basic {b64encode(f'{USER}:{PASSWORD}'.encode()).decode()}"}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A front door, served by a separate thread."""
    web = write_web(Web("door", tmp_path_factory.mktemp("openapi"), free_port(), fleet()))
    begun, stop = threading.Event(), threading.Event()

    async def serve() -> None:
        async with front_door.open_door(web, watchdog=math.inf):
            begun.set()
            await trio.to_thread.run_sync(stop.wait)

    thread = threading.Thread(target=trio.run, args=(serve,))
    thread.start()
    try:
        assert begun.wait(30)
        yield f"https://{web.host}:{web.port}"
    finally:
        stop.set()
        thread.join(30)


@pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
@SCHEMA.parametrize()
@settings(
    max_examples=10,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
def test_every_answer_is_in_the_document(case: "schemathesis.Case[Any]", url: str) -> None:
    """For every request, status and content type are documented."""
    case.call_and_validate(base_url=url, checks=CHECKS, headers=KNOWN, verify=False)
