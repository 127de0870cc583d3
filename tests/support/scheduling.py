"""How the tests are shared among the workers of `make test`."""

from typing import Final

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

#: Tests that use what a machine has only once, such as its accounts or its package manager: one
#: worker runs them, one after the other. They take longest, so they come first.
MACHINE: Final = (
    "tests/packaging/",
    "tests/integration/conf/test_accounts.py",
    "tests/integration/commands/check/test_surroundings.py",
    "tests/e2e/webserver/test_accounts.py",
)
#: Files whose tests take long and share nothing but the session: any worker takes the next one.
SPLIT: Final = (
    "tests/e2e/test_crash.py",
    "tests/e2e/test_process.py",
    "tests/unit/runlog/test_parser_floods.py",
    "tests/e2e/test_secrets.py",
    "tests/e2e/test_demo.py",
)


def place(path: str) -> int:
    """Return the rank of a file in the order of a run: long tests first, so that none runs last."""
    if path.startswith(MACHINE):
        return 0
    if path.startswith(SPLIT):
        return 1
    return 2 if path.startswith("tests/e2e/") else 3


class Scheduler(LoadScopeScheduling):
    """Hand out the tests of a file together, in the order of the collection."""

    def __init__(self, config: pytest.Config, log: Producer | None = None) -> None:
        config.option.loadscopereorder = False
        super().__init__(config, log)

    def _split_scope(self, nodeid: str) -> str:
        path = nodeid.partition("::")[0]
        if path.startswith(MACHINE):
            return "machine"
        return nodeid if path.startswith(SPLIT) else path
