"""Fixtures for tests of the nodes and their certificates."""

from pathlib import Path

import pytest

from tests.support.fleet import Fleet
from tests.support.signing import SigningNode, make_key_and_cert


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(tmp_path)


@pytest.fixture(scope="module")
def node() -> SigningNode:
    return make_key_and_cert("node-1")


@pytest.fixture(scope="module")
def other() -> SigningNode:
    return make_key_and_cert("node-2")
