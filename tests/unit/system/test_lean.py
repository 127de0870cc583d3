"""Parts of libraries that are not loaded, in fresh interpreters."""

import subprocess
import sys

import pytest

from relayd.system.lean import UNUSED

#: Everything that a relay imports, and what it imports for the first large file or remote run.
RELAY = (
    "from relayd.system.lean import load_lean; load_lean('msgspec'); load_lean('trio'); "
    "import relayd.api.app, relayd.api.server.server, relayd.service.tree"
)
DAEMON = f"{RELAY}, relayd.fleet.peers.library"


def modules_after(*statements: str) -> set[str]:
    """Names of all modules in a fresh interpreter that ran these statements."""
    program = "; ".join([*statements, "import sys", "print(*sys.modules)"])
    command = [sys.executable, "-c", program]
    return set(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())


def test_a_daemon_does_not_load_what_it_never_uses() -> None:
    """No module of the table is loaded, and no other module of a package in it."""
    loaded = modules_after(DAEMON)
    for unused in (unused for library in UNUSED.values() for unused in library):
        for name in unused.modules:
            assert not [each for each in loaded if each == name or each.startswith(f"{name}.")]


def test_a_relay_of_run_logs_does_not_load_the_client_library() -> None:
    """Uploads of small files need no HTTP client; only requests of other kinds load it."""
    assert not {"httpcore2", "relayd.fleet.peers.library"} & modules_after(RELAY)
    assert "httpcore2" in modules_after(DAEMON)


def test_a_relay_starts_without_what_only_other_commands_need() -> None:
    """No parser of options, of mail or of archives, and no second event loop."""
    late = {"asyncio", "click", "email.parser", "importlib.metadata", "zipfile"}
    assert not late & modules_after(RELAY, "relayd.api.server.server.check_versions()")


def test_an_unforeseen_use_of_what_was_left_out_works() -> None:
    """A call of a stand-in loads the module and is passed on; in an except clause it matches none.

    During the import a call makes an object of no use, and loads nothing.
    """
    program = """
import sys
from relayd.system import lean
lean.UNUSED["quopri"] = (lean.Unused(("binascii", "fractions"), 1.0),)
sys.modules.pop("binascii", None)
with lean.lean("quopri"):
    import fractions
    made = fractions.Fraction(1, 2)
assert "fractions" not in sys.modules and not hasattr(made, "numerator")
assert fractions.Fraction(1, 2).numerator == 1 and "fractions" in sys.modules
try:
    raise ValueError
except fractions.SomeError:
    raise SystemExit(1)
except ValueError:
    pass
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_what_was_left_out_can_be_imported_later() -> None:
    """Outside of the libraries, every module of the table is imported as usual."""
    names = [name for library in UNUSED.values() for unused in library for name in unused.modules]
    # The libraries themselves keep what they were given, so only other packages are complete.
    names = [name for name in names if name.partition(".")[0] in {"h2", "jinja2", "rich", "anyio"}]
    loaded = modules_after(DAEMON, f"import {', '.join(names)}", "jinja2.Environment().from_string")
    assert set(names) <= loaded


def test_each_row_is_worth_its_place() -> None:
    """A part that would take less than 0.3 MB is loaded as usual."""
    rows = [unused for library in UNUSED.values() for unused in library]
    assert min(unused.saves for unused in rows) >= 0.3


@pytest.mark.parametrize("module", ["relayd.fleet.nodes", "relayd.commands.inspect.command"])
def test_commands_load_neither_client_nor_server(module: str) -> None:
    """Reading a nodes list and examining files needs no HTTP library."""
    packages = {name.partition(".")[0] for name in modules_after(f"import {module}")}
    assert not packages & {"httpcore2", "quart", "quart_trio", "hypercorn", "h11"}
